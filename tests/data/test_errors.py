from semigrid.data.errors import LONGEST, InputError


def test_a_problem_that_quotes_a_file_is_said_in_short() -> None:
    error = InputError("brief", f"images.csv: {'9' * 10**6} is no number; give one")
    assert error.problems[0] == "brief"
    assert error.problems[1].startswith("images.csv: 999")
    assert error.problems[1].endswith("999 is no number; give one")
    assert len(error.problems[1]) < LONGEST + 10
