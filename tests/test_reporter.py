import io
import json

from congling.reporter import Metrics, Reporter, duration, human, read_metrics


def test_plain_lines_when_the_output_is_no_terminal():
    out = io.StringIO()
    reporter = Reporter(out)
    assert not reporter.terminal
    with reporter.progress("work", 10, "documents") as bar:
        bar.advance(10, note="fine")
    reporter.line("[bold]not markup")
    reporter.detail("hidden")
    assert out.getvalue().startswith("work: 10 documents in ")
    assert "[bold]not markup" in out.getvalue()
    assert "hidden" not in out.getvalue()


def test_work_of_an_earlier_run_does_not_count_in_the_rate():
    with Reporter(quiet=True).progress("work", 100, "tokens", done=90) as bar:
        bar.advance(0)
        assert bar.rate() == 0


def test_metrics_rewind_to_a_step_and_lose_a_torn_line(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.rewind(0)
    for step in range(5):
        metrics.write("train", step=step, loss=1.5)
    with open(metrics.path, "a") as file:
        file.write('{"kind": "train", "st')
    metrics.rewind(2)
    assert [row["step"] for row in read_metrics(metrics.path)] == [0, 1, 2]
    assert all(json.loads(line) for line in metrics.path.read_text().splitlines())


def test_numbers_for_people():
    assert [human(v) for v in (3, 999, 12_345, 1_234_567, 123e6, 2.5e9, 0.25)] == [
        "3", "999", "12.3 k", "1.23 M", "123 M", "2.5 G", "0.25",
    ]  # fmt: skip
    assert [duration(s) for s in (3.24, 59, 75, 3725)] == ["3.2 s", "59 s", "1 min 15 s", "1 h 02 min"]
