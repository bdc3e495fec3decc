"""What the command line of the server may say."""

from __future__ import annotations

from pathlib import Path

import pytest
from lib.conf import AppConf

from mnseg.errors import UserError

APP = Path(__file__).parents[2] / "monailabel_app"


def parse(studies="/scans", **conf):
    return AppConf.from_conf({"labels": "left atrium", **conf}, APP, studies)


def test_defaults():
    conf = parse()
    assert conf.class_names == ("background", "left atrium") and conf.label_indices == {"left atrium": 1}
    assert conf.workspace == Path("/scans/.mnseg") and conf.bundle.name == "mn_cotraining" and not conf.is_dicomweb
    assert conf.retrain is None and conf.unedited == "unlabeled" and conf.model is None


def test_labels_are_1_to_n_in_their_order():
    assert parse(labels="lobe, bean,tube").label_indices == {"lobe": 1, "bean": 2, "tube": 3}


def test_labels_survive_a_shell_script_that_splits_at_spaces():
    assert parse(labels="left%20atrium,right%20atrium").labels == ("left atrium", "right atrium")


def test_every_dicomweb_server_has_a_workspace_of_its_own():
    a, b, a2 = (parse(url).workspace for url in ("http://pacs/a", "http://pacs/b", "http://pacs/a/"))
    assert a.parent == APP / "model" and a != b and a == a2


def test_channels_may_stand_in_an_overlay(tmp_path):
    overlay = tmp_path / "two.json"
    overlay.write_text('{"in_channels": 2}')
    assert parse().in_channels == 1 and parse(overlays=str(overlay)).in_channels == 2
    assert parse(overlays=str(overlay), settings='{"in_channels": 3}').in_channels == 3


def test_values_are_parsed():
    conf = parse(retrain="off", retrain_pause="0.5", quiet_hours="22:00-06:00", settings='{"max_epochs": 3}',
                 seg_sources="OHIF, Slicer", threads="2", group_by="^[^_]+")
    assert (conf.retrain, conf.retrain_pause, conf.settings, conf.threads) == (False, 0.5, {"max_epochs": 3}, 2)
    assert conf.seg_sources == ("OHIF", "Slicer")


@pytest.mark.parametrize(("key", "value", "hint"), [
    ("retrain_aftr", "3", "did you mean 'retrain_after'"),
    ("zzz", "3", "the keys are bfloat16"),
    ("labels", "a,,b", "single commas"),
    ("labels", "a,A", "the same"),
    ("labels", "left atrium,left_atrium", "the same"),
    ("folds", "1", "a single fold would hold out everything"),
    ("settings", '{"class_names": ["background", "other"]}', "class_names are others"),
    ("settings", '{"in_channels": "two"}', "in_channels is 'two'"),
    ("settings", '{"spacing": [1, 1]}', "three numbers above 0"),
    ("settings", '{"slice_axis": 7}', "slice_axis is 7"),
    ("labels", "background,a", "leave the background out"),
    ("labels", "_Background,a", "leave the background out"),
    ("labels", "", "No labels are named|single commas"),
    ("retrain", "maybe", "write on or off"),
    ("retrain_after", "0", "whole number of at least 1"),
    ("retrain_after", "2.5", "whole number"),
    ("validation_fraction", "1.5", "from 0 to 0.9"),
    ("validation_fraction", "nan", "from 0 to 0.9"),
    ("quiet_hours", "22-6", "22:00-06:00"),
    ("settings", "[1]", "JSON object"),
    ("settings", "{", "JSON object"),
    ("settings", '{"max_epoch": 3}', "did you mean 'max_epochs'"),
    ("overlays", "/nowhere.json", "is not there"),
    ("model", "/nowhere", "no such folder"),
    ("group_by", "(", "regular expression"),
    ("origins", "pacs:3000", "http://HOST:PORT"),
    ("unedited", "maybe", "train or unlabeled"),
    ("bundle", "/nowhere", "no configs/train.json"),
    ("reserve_minutes", "inf", "from 0 to 525600"),
    ("max_upload_mb", "inf", "from 0.001 to 100000"),
    ("max_upload_mb", "1e400", "from 0.001 to 100000"),
    ("retrain_pause", "inf", "of at least 0"),
    ("server_mode", "x", "write on or off"),
    ("overlays", "/etc/passwd", "/etc/passwd is not valid JSON"),
    ("settings", '{"patch_size": [16, 16]}', "patch_size is .*three whole numbers"),
    ("settings", '{"batch_size": "x"}', "batch_size is 'x'"),
    ("settings", '{"stage_1_epochs": NaN}', "stage_1_epochs"),
    ("settings", '{"learning_rate": -1}', "learning_rate is -1"),
    ("settings", '{"learning_rate": 1e999}', "learning_rate holds NaN or an infinite number"),
    ("settings", '{"network_def#features#99": 1}', "a part that is not there"),
    ("settings", '{"device": "cuda:99"}', "device is 'cuda:99', but this computer has"),
    ("settings", '{"device": "gpu"}', "device is 'gpu'; write cpu"),
])
def test_what_cannot_be_meant_is_one_sentence(key, value, hint):
    with pytest.raises(UserError, match=hint) as caught:
        parse(**{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "hint"), [
    ("[1]", "no JSON object"),
    ("{", "not valid JSON"),
    ('{"batch_sice": 2}', "has no key 'batch_sice' .did you mean 'batch_size'"),
    ('{"patch_size": [16, 16]}', "patch_size is"),
])
def test_overlays_are_looked_at(tmp_path, content, hint):
    file = tmp_path / "own.json"
    file.write_text(content)
    with pytest.raises(UserError, match=hint):
        parse(overlays=str(file))
    file.write_text('{"_note": "mine", "lite": true, "network_def#features": [8, 8, 8, 8, 8, 8], "device": "cpu"}')
    assert parse(overlays=str(file), settings='{"patch_size": [16, 16, 16]}').overlays == (file,)


def test_labels_come_from_a_packed_model(tmp_path):
    (tmp_path / "model.json").write_text('{"class_names": ["background", "lobe", "bean"]}')
    assert AppConf.from_conf({"model": str(tmp_path)}, APP, "/scans").labels == ("lobe", "bean")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match="names no structures"):
        AppConf.from_conf({"model": str(tmp_path)}, APP, "/scans")
    with pytest.raises(UserError, match="No labels are named"):
        AppConf.from_conf({}, APP, "/scans")


def test_without_overlays_a_recipe_that_fits_the_machine_is_taken(tmp_path):
    import torch

    app = Path(__file__).parents[2] / "monailabel_app"
    conf = AppConf.from_conf({"labels": "organ"}, app, str(tmp_path))
    assert [path.name for path in conf.overlays] == ["label.json" if torch.cuda.is_available() else "cpu.json"]
    assert all(path.is_file() for path in conf.overlays)
    own = tmp_path / "own.json"
    own.write_text("{}")
    assert AppConf.from_conf({"labels": "organ", "overlays": str(own)}, app, str(tmp_path)).overlays == (own,)
