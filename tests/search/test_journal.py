"""The journal as its one reader goes through it: every line once, the memory of it small."""
import pathlib

from raycal.search.journal import Journal


def journal(tmp_path) -> Journal:
    path = pathlib.Path(tmp_path) / "study.journal"
    path.touch()
    return Journal(path, lambda call: call())


def test_a_reader_goes_on_where_it_stopped_and_remembers_two_places(tmp_path):
    written = journal(tmp_path)
    for n in range(50):
        written.append_logs([{"op_code": 8, "user_attr": {"config": {"model.width": n}}}])
        assert [log["user_attr"]["config"]["model.width"] for log in written.read_logs(n)] == [n]
    assert len(written._log_number_offset) == 2
    assert len(list(written.read_logs(0))) == 50 and len(list(journal(tmp_path).read_logs(0))) == 50


def test_the_names_of_settings_are_one_in_all_trials(tmp_path):
    written = journal(tmp_path)
    written.append_logs([{"user_attr": {"config": {"model.width": n}}} for n in range(2)])
    first, second = (next(iter(log["user_attr"]["config"])) for log in written.read_logs(0))
    assert first == "model.width" and first is second
