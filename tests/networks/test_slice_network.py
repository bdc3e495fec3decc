"""SliceNetwork: equals slice-by-slice application, whatever the chunks, axis, context and size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnseg.errors import UserError
from mnseg.networks.slice_network import SliceNetwork


def small_net(classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)
    )


class ChannelMeans(nn.Module):
    """Logits are the three input channels: shows what arrives at the 2D network."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x.detach().clone()
        return x


def lifted(network: nn.Module, **kwargs) -> SliceNetwork:
    kwargs = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5), "num_classes": 3} | kwargs
    return SliceNetwork(network, **kwargs)


def identity_input(**kwargs) -> SliceNetwork:
    """No change of intensities, no padding."""
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1), "intensity_scale": 1, "intensity_shift": 0, "min_size": 1}
    return lifted(ChannelMeans(), **(plain | kwargs))


def test_equals_application_to_each_slice_by_hand():
    f = small_net().eval()
    net = lifted(f, min_size=1).eval()
    x = torch.randn(2, 1, 40, 33, 5)
    out = net(x)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.5]).view(1, 3, 1, 1)
    for b in range(2):
        for d in range(5):
            rgb = (x[b : b + 1, :, :, :, d] * 0.225 + 0.45).repeat(1, 3, 1, 1)
            expected = F.interpolate(f((rgb - mean) / std), size=(40, 33), mode="bilinear")
            torch.testing.assert_close(out[b : b + 1, ..., d], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_chunk_size_does_not_change_the_result(chunk):
    f = small_net()
    x = torch.randn(2, 1, 32, 36, 7)
    reference = lifted(f, chunk_size=1000).eval()(x)
    torch.testing.assert_close(lifted(f, chunk_size=chunk).eval()(x), reference, atol=1e-5, rtol=1e-5)


def test_chunks_hold_at_most_chunk_size_and_never_one_left_over():
    sizes = []
    f = small_net()
    f.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    lifted(f, chunk_size=8)(torch.randn(1, 1, 32, 32, 33))
    assert sizes == [7, 7, 7, 6, 6]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slice_axis_follows_the_volume(axis):
    f = small_net()
    x = torch.randn(1, 1, 34, 40, 6)  # slices along the last axis
    reference = lifted(f).eval()(x)
    turned = lifted(f, slice_axis=axis).eval()(x.movedim(4, 2 + axis))
    torch.testing.assert_close(turned.movedim(2 + axis, 4), reference, atol=1e-5, rtol=1e-5)


def test_several_axes_give_the_mean_of_their_probabilities():
    f = small_net()
    x = torch.randn(1, 1, 36, 40, 34)
    single = [lifted(f, slice_axis=axis).eval()(x).softmax(1) for axis in (2, 0)]
    both = lifted(f, slice_axis=[2, 0]).eval()
    torch.testing.assert_close(both(x).exp(), sum(single) / 2)
    torch.testing.assert_close(both(x, axis=0).softmax(1), single[1])


def test_context_gives_the_neighbours_with_repeated_edges():
    x = torch.arange(4.0).view(1, 1, 1, 1, 4).expand(1, 1, 6, 5, 4)
    out = identity_input(slice_context=3)(x)
    channels = out[0, :, 0, 0, :].T  # one row per slice: the values at d-1, d, d+1
    assert channels.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_context_does_not_cross_volumes():
    x = torch.stack([torch.zeros(1, 4, 4, 3), torch.ones(1, 4, 4, 3)])
    out = identity_input(slice_context=3, chunk_size=2)(x)
    assert out[0].max() == 0
    assert out[1].min() == 1


def test_three_channels_pass_as_they_are():
    x = torch.randn(2, 3, 8, 9, 4)
    torch.testing.assert_close(identity_input()(x), x)


@pytest.mark.parametrize(("channels", "context"), [(2, 1), (4, 1), (3, 3)])
def test_other_channels_are_refused(channels, context):
    with pytest.raises(UserError, match="channels"):
        identity_input(slice_context=context)(torch.zeros(1, channels, 8, 8, 2))


def test_default_intensities_arrive_like_natural_images():
    f = ChannelMeans()
    lifted(f, mean=(0, 0, 0), std=(1, 1, 1))(torch.tensor([-2.0, 0.0, 2.0]).view(1, 1, 1, 1, 3).expand(1, 1, 32, 32, 3))
    torch.testing.assert_close(f.seen[:, 0, 0, 0], torch.tensor([0.0, 0.45, 0.9]))


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 7, 3), (33, 65, 2)])
@pytest.mark.parametrize("options", [{}, {"slice_scale": 2.0}, {"size_multiple": 16}, {"image_size": 24}])
def test_any_size_gives_full_resolution(size, options):
    out = lifted(small_net(), **options).eval()(torch.randn(1, 1, *size))
    assert out.shape == (1, 3, *size)
    assert out.isfinite().all()


def test_padding_does_not_shift_the_logits():
    """A network that returns its input: padding and cropping must give back the slice itself."""
    x = torch.randn(1, 3, 21, 17, 2)
    torch.testing.assert_close(identity_input(min_size=32, size_multiple=8)(x), x)


def test_a_fixed_square_keeps_the_proportions_of_a_slice():
    """12 x 8 in a square of 24: doubled to 24 x 16, eight columns of padding, logits back on the slice."""
    x = torch.linspace(-1, 1, 12).view(1, 1, 12, 1, 1).expand(1, 3, 12, 8, 2).contiguous()
    net = identity_input(image_size=24, slice_scale=3.0)
    out = net(x)
    seen = net.network_2d.seen
    assert seen.shape == (2, 3, 24, 24)
    torch.testing.assert_close(seen[..., :16], F.interpolate(x[..., 0], (24, 16), mode="bilinear").expand(2, 3, 24, 16))
    assert torch.equal(seen[..., 16:], seen[..., 15:16].expand(2, 3, 24, 8))
    torch.testing.assert_close(out[:, :, 2:-2], x[:, :, 2:-2], atol=1e-6, rtol=0)


def test_slice_scale_enlarges_what_the_network_sees():
    net = identity_input(slice_scale=2.0)
    net(torch.randn(1, 1, 10, 7, 2))
    assert net.network_2d.seen.shape == (2, 3, 20, 14)


def test_a_single_slice_trains_with_pooled_batch_norm():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return x + self.norm(x.mean((2, 3), keepdim=True))

    net = lifted(Pooled()).train()
    net(torch.randn(1, 1, 32, 32, 1)).sum().backward()
    assert net.network_2d.norm.training
    assert net.network_2d.norm.num_batches_tracked == 0


def test_checkpointing_gives_the_same_gradients_and_statistics():
    x = torch.randn(1, 1, 32, 32, 9)
    nets = [lifted(small_net(), chunk_size=4, checkpoint=c).train() for c in (False, True)]
    for net in nets:
        net(x).square().mean().backward()
    plain, recomputed = (dict(net.named_parameters()) for net in nets)
    for name, p in plain.items():
        assert p.grad.abs().sum() > 0 or "bias" in name
        torch.testing.assert_close(recomputed[name].grad, p.grad, atol=1e-7, rtol=1e-5)
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_chunking_bounds_what_is_kept_without_gradients():
    seen = []
    f = small_net()
    f.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    with torch.no_grad():
        lifted(f, chunk_size=4).eval()(torch.randn(2, 1, 32, 32, 8))
    assert seen == [4, 4, 4, 4]


def test_bfloat16_autocast_returns_float32_logits():
    net = lifted(small_net()).eval()
    x = torch.randn(1, 1, 32, 32, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, net(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    "bad",
    [{"slice_axis": 3}, {"slice_axis": []}, {"slice_axis": [1, 1]}, {"slice_context": 2}, {"chunk_size": 0},
     {"slice_scale": 0}, {"num_classes": 5}],
)
def test_bad_arguments_are_named(bad):
    with pytest.raises(UserError):
        lifted(small_net(), **bad)(torch.zeros(1, 1, 32, 32, 2))


def test_a_4d_input_is_refused():
    with pytest.raises(UserError, match="B, C, H, W, D"):
        lifted(small_net())(torch.zeros(1, 32, 32, 2))
