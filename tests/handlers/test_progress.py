from __future__ import annotations

from ignite.engine import Events

from mnseg.handlers import ProgressHandler


def test_bar_counts_all_iterations_and_names_the_epoch(make_engine, run, capsys):
    engine = make_engine(stage_1=1, num_unlabeled=2)
    handler = ProgressHandler(quiet_seconds=0.0)
    handler.attach(engine)
    run(engine, 3)
    assert (handler.bar.n, handler.bar.total) == (6, 6)
    shown = capsys.readouterr().err
    assert "6/6" in shown and "epoch 3/3 stage 2 student 2d b_u 2" in shown


def test_a_continued_run_starts_where_it_was(make_engine, run, capsys):
    engine = make_engine()

    @engine.on(Events.STARTED)
    def resume(engine):
        engine.state.epoch, engine.state.iteration = 2, 4

    handler = ProgressHandler()
    handler.attach(engine)
    run(engine, 3)
    assert (handler.bar.initial, handler.bar.n, handler.bar.total) == (4, 6, 6)


def test_closed_by_an_error(make_engine, run, capsys):
    engine = make_engine()
    handler = ProgressHandler()
    handler.attach(engine)

    @engine.on(Events.ITERATION_COMPLETED(once=2))
    def fail(engine):
        raise ValueError("on purpose")

    run(engine, 3)  # ignite swallows it, because the handler listens; CoTrainer raises it again
    assert handler.bar.disable, "closed"
    handler.close(engine)
    ProgressHandler().close(engine, ValueError())
