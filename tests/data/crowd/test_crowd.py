"""Crowd answers: every corner of the vote by hand, and the formats as their makers write them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semigrid.data.crowd import answers as crowd_answers
from semigrid.data.crowd import consensus as votes
from semigrid.data.crowd.answers import normalized, read_answers, read_gold
from semigrid.data.crowd.consensus import Rules, Vote, consensus, fleiss_kappa
from semigrid.data.errors import InputError


def frame(**answers: str) -> pd.DataFrame:
    """``task="ann:dots bob:plain"`` as rows."""
    rows = [(task, *answer.split(":")) for task, cast in answers.items() for answer in cast.split()]
    return pd.DataFrame(rows, columns=["task", "worker", "label"])


HAND = frame(
    all="a:dots b:dots c:dots",
    two="a:dots b:plain c:dots",
    none="a:dots b:plain c:other",
    pair="a:dots b:dots",
    split="a:dots b:plain",
    single="a:dots",
    late="a:plain b:dots c:other d:dots",  # the fourth is more than asked for
    again="a:dots a:dots b:plain",  # one worker has one vote
)


def test_two_of_three_by_hand() -> None:
    found, audit = consensus(HAND)
    assert {task: vote.label for task, vote in found.items()} == {
        "all": "dots",
        "two": "dots",
        "none": None,
        "pair": "dots",
        "split": None,
        "single": None,
        "late": None,
        "again": None,
    }
    assert found["two"].votes == {"dots": 2, "plain": 1}
    assert found["again"].votes == {"dots": 1, "plain": 1}
    assert {v.reason for v in found.values()} == {None, votes.TOO_FEW}
    assert (audit.answers, audit.used, audit.tasks, audit.labeled) == (21, 19, 8, 3)
    assert audit.dropped == {votes.REPEATED: 1, votes.SURPLUS: 1}
    assert audit.unlabeled == {votes.TOO_FEW: 5}


def test_both_numbers_are_adjustable() -> None:
    answers = frame(tie="a:x b:x c:y d:y", three="a:x b:x c:x d:y e:y", four="a:x b:x c:x d:x e:y")
    found, _ = consensus(answers, Rules(agree=2, of=4))
    assert found["tie"] == Vote(None, votes.TIE, {"x": 2, "y": 2})
    assert found["three"].label == "x"
    found, _ = consensus(answers, Rules(agree=4, of=5))
    assert [found[t].label for t in ("three", "four")] == [None, "x"]
    found, _ = consensus(frame(one="a:x"), Rules(agree=1, of=1))
    assert found["one"].label == "x"
    with pytest.raises(InputError, match="agree is 4 of 3"):
        consensus(answers, Rules(agree=4))


def test_workers_below_the_score_on_gold_do_not_count() -> None:
    answers = frame(
        gold1="good:x bad:y half:x",
        gold2="good:y bad:x half:x",
        image="bad:plain good:dots half:plain new:plain",
        other="good:dots half:dots bad:plain",
    )
    truth = {"gold1": "x", "gold2": "y"}
    found, audit = consensus(answers, Rules(min_gold_score=0.7), truth)
    assert found["image"] == Vote(None, votes.TOO_FEW, {"dots": 1})
    assert found["gold1"].label == "x" and found["gold2"].label == "y"
    assert audit.dropped == {votes.UNQUALIFIED: 4 + 4, votes.UNTESTED: 1}
    scores = {w["worker"]: (w["gold_score"], w["used"]) for w in audit.workers}
    assert scores == {"good": (1.0, 4), "bad": (0.0, 0), "half": (0.5, 0), "new": (None, 0)}
    # a worker who reaches the score exactly counts
    found, _ = consensus(answers, Rules(min_gold_score=0.5), truth)
    assert found["other"].label == "dots"


def test_a_task_without_any_answer_that_counts() -> None:
    answers = frame(gold="bad:y", image="bad:dots")
    found, audit = consensus(answers, gold={"gold": "x"})
    assert found["image"] == Vote(None, votes.NO_ANSWER, {})
    assert audit.unlabeled == {votes.NO_ANSWER: 1}


def test_agreement_of_workers_with_the_labels() -> None:
    _, audit = consensus(frame(one="a:x b:x c:y", two="a:y b:y c:y", none="a:x b:y"))
    agreement = {w["worker"]: w["agreement"] for w in audit.workers}
    assert agreement == {"a": 1.0, "b": 1.0, "c": 0.5}


def test_fleiss_kappa_of_the_published_example() -> None:
    # Fleiss 1971 as worked out in textbooks: 10 subjects, 14 raters, 5 categories, κ = 0.210
    counts = [
        *[[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]],
        *[[7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]],
    ]
    votes_ = [{str(j): n for j, n in enumerate(row) if n} for row in counts]
    assert fleiss_kappa(votes_) == pytest.approx(0.210, abs=0.0005)


def test_fleiss_kappa_at_its_ends() -> None:
    assert fleiss_kappa([{"x": 3}, {"y": 3}]) == 1
    assert fleiss_kappa([{"x": 1, "y": 1}, {"x": 1, "y": 1}]) == -1
    assert fleiss_kappa([{"x": 3}, {"x": 2}]) is None  # nothing to disagree on
    assert fleiss_kappa([{"x": 1}]) is None and fleiss_kappa([]) is None


@given(
    st.lists(
        st.tuples(st.sampled_from("pqrs"), st.sampled_from("abcde"), st.sampled_from("xyz")),
        max_size=40,
    )
)
def test_a_label_always_has_its_majority(rows: list[tuple[str, str, str]]) -> None:
    found, audit = consensus(pd.DataFrame(rows, columns=["task", "worker", "label"]))
    assert set(found) == {task for task, _, _ in rows}
    for vote in found.values():
        assert (vote.label is None) != (vote.reason is None)
        assert sum(vote.votes.values()) <= 3
        if vote.label is not None:
            assert vote.votes[vote.label] >= 2 and vote.votes[vote.label] == max(
                vote.votes.values()
            )
    assert audit.used + sum(audit.dropped.values()) == audit.answers == len(rows)
    assert audit.labeled + sum(audit.unlabeled.values()) == audit.tasks


def written(folder: Path, name: str, content: str) -> str:
    path = folder / name
    path.write_text(content)
    return str(path)


def triples(answers: pd.DataFrame) -> list[tuple[str, ...]]:
    return [tuple(row) for row in answers.itertuples(index=False)]


def test_generic_answers(tmp_path: Path) -> None:
    text = "worker,task,label,time\n007,img1,1,3\nann,img1,NA,4\n"
    expected = [("img1", "007", "1"), ("img1", "ann", "NA")]  # strings, as they stand
    assert triples(read_answers(written(tmp_path, "a.csv", text))) == expected
    # the stored index of joined tables repeats itself
    parts = [pd.DataFrame([row], columns=crowd_answers.COLUMNS) for row in expected]
    pd.concat(parts).to_parquet(tmp_path / "a.parquet")
    answers = read_answers(str(tmp_path / "a.parquet"))
    assert triples(answers) == expected
    consensus(answers)


MTURK = "HITId,HITTypeId,Title,AssignmentId,WorkerId,AssignmentStatus,WorkTimeInSeconds,"


def test_mturk_answer_column(tmp_path: Path) -> None:
    text = MTURK + (
        "Input.image_url,Answer.pattern,Approve,Reject\n"
        "h1,t,Which pattern?,a1,W1,Approved,9,https://x/1.jpg,dots,x,\n"
        "h1,t,Which pattern?,a2,W2,Submitted,9,https://x/1.jpg,plain,,\n"
        "h1,t,Which pattern?,a3,W3,Rejected,9,https://x/1.jpg,stripes,,x\n"
    )
    assert triples(read_answers(written(tmp_path, "batch.csv", text))) == [
        ("https://x/1.jpg", "W1", "dots"),
        ("https://x/1.jpg", "W2", "plain"),
    ]


def test_mturk_one_hot_columns(tmp_path: Path) -> None:
    text = MTURK + (
        "Input.image_url,Input.title,Answer.pattern.dots,Answer.pattern.v-neck. wide,Answer.note\n"
        "h1,t,T,a1,W1,Approved,9,1.jpg,one,true,false,hm\n"
        "h1,t,T,a2,W2,Approved,9,1.jpg,one,false,TRUE,\n"
        "h1,t,T,a3,W3,Approved,9,1.jpg,one,false,false,\n"
    )
    file = written(tmp_path, "batch.csv", text)
    found = read_answers(file, image="image_url", answer="pattern")
    assert triples(found) == [("1.jpg", "W1", "dots"), ("1.jpg", "W2", "v-neck. wide")]
    with pytest.raises(InputError, match=r"2 Input columns \(Input.image_url, Input.title\)"):
        read_answers(file, answer="pattern")
    with pytest.raises(InputError, match=r"2 answer fields \(pattern, note\)"):
        read_answers(file, image="Input.image_url")
    broken = written(tmp_path, "two.csv", text.replace("true,false,hm", "true,true,hm"))
    found = read_answers(broken, image="image_url", answer="pattern")
    assert found["label"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    "value",
    [
        *("dots", ["dots"], {"label": "dots"}, {"labels": ["dots", "dots"]}),
        *({"dots": True, "plain": False}, {"dots": True}, {"dots": "true", "plain": "false"}),
    ],
)
def test_mturk_json_answers(tmp_path: Path, value: Any) -> None:
    quoted = json.dumps(json.dumps([{"pattern": value}]))[1:-1].replace('\\"', '""')
    text = MTURK + f'Input.image_url,Answer.taskAnswers\nh,t,T,a,W1,Approved,9,1.jpg,"{quoted}"\n'
    file = written(tmp_path, "batch.csv", text)
    assert triples(read_answers(file)) == [("1.jpg", "W1", "dots")]
    assert triples(read_answers(file, answer="pattern")) == [("1.jpg", "W1", "dots")]


def test_json_answers_may_be_numbers_and_booleans_and_several(tmp_path: Path) -> None:
    values = [True, False, 2.5, 3, {"label": True}, {"label": "true"}, ["a", "b"], {"a": 1 > 0}]
    rows = [f"W{n},,1.jpg,'{json.dumps([{'a': value}])}'\n" for n, value in enumerate(values)]
    text = f"{HEAD}Answer.taskAnswers\n" + "".join(rows).replace('"', '""').replace("'", '"')
    found = read_answers(written(tmp_path, "batch.csv", text), "mturk")
    labels = found["label"].astype(object)
    assert labels.where(labels.notna(), None).tolist() == [
        "True",
        "False",
        "2.5",
        "3",
        "label",
        "true",
        None,
        "a",
    ]


def test_an_answer_of_several_labels_does_not_count() -> None:
    table = pd.DataFrame(
        [
            *[("1", "a", None), ("1", "a", "cat"), ("1", "b", "cat"), ("1", "c", None)],
            *[("2", "a", "dog"), ("2", "c", "dog"), ("3", "c", None)],
        ],
        columns=crowd_answers.COLUMNS,
    )
    votes, audit = consensus(table, gold={"1": "cat", "2": "dog"})
    assert [(votes[task].label, dict(votes[task].votes)) for task in "123"] == [
        *[("cat", {"cat": 2}), ("dog", {"dog": 2}), (None, {})]
    ]
    assert audit.dropped == {"several labels from one worker": 3}
    assert (audit.answers, audit.used, audit.spellings) == (7, 4, [])


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        # MTurk's own classifiers, with the label and with a list of labels
        ("Answer.category.label", "Cat"),
        ("Answer.category.labels", '"[""Cat""]"'),
        ("Answer.category.label,Answer.category.labels", ',"[""Cat""]"'),
        ("Answer.category.label,Answer.category.labels", "Cat,"),
        # a class may be named true, and a label be confirmed beside it
        ("Answer.category.label,Answer.category.sure", "Cat,true"),
        ("Answer.category.Cat,Answer.category.Dog", "True,"),
        # crowd-radio-group: each button is a field, with the value "on" if it has none
        ("Answer.Cat.on,Answer.Dog.on", "true,false"),
        ("Answer.Dog.yes,Answer.Cat.yes", "false,true"),
        ("Answer.b1.Dog,Answer.b2.Cat", ",true"),
    ],
)
def test_mturk_fields_with_columns_of_their_own(tmp_path: Path, columns: str, cells: str) -> None:
    text = f"WorkerId,AssignmentStatus,Input.image,{columns}\nW1,Approved,1.jpg,{cells}\n"
    assert triples(read_answers(written(tmp_path, "batch.csv", text))) == [("1.jpg", "W1", "Cat")]


def test_buttons_beside_other_fields_are_named_together(tmp_path: Path) -> None:
    text = (
        "WorkerId,AssignmentStatus,Input.image,Answer.cat.on,Answer.dog.on,Answer.note\n"
        "W1,,1.jpg,false,true,sharp\nW2,,1.jpg,true,true,\nW3,,1.jpg,false,false,none\n"
    )
    file = written(tmp_path, "batch.csv", text)
    with pytest.raises(InputError, match=r"2 answer fields \(note, buttons\); .*answers_f"):
        read_answers(file)
    found = read_answers(file, answer="buttons")
    # two pressed are no label; none pressed is no answer
    assert triples(found.dropna()) == [("1.jpg", "W1", "dog")]
    assert found["worker"].tolist() == ["W1", "W2"]


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"cat": {"on": False}, "dog": {"on": True}}, "dog"),
        ({"b1": {"cat": True}, "b2": {"dog": False}}, "cat"),  # as AWS documents crowd-radio-group
        ({"dog": {"on": True}}, "dog"),
        ({"cat": {"on": True}, "dog": {"on": True}}, None),
        ({"cats": {"cat": True, "dog": True}}, None),
    ],
)
def test_json_answers_of_radio_buttons(tmp_path: Path, fields: Any, label: str | None) -> None:
    quoted = json.dumps([fields]).replace('"', '""')
    text = f'{HEAD}Answer.taskAnswers\nW,,1.jpg,"{quoted}"\n'
    found = read_answers(written(tmp_path, "batch.csv", text), "mturk")
    assert triples(found.fillna("several")) == [("1.jpg", "W", label or "several")]


def test_a_label_that_is_blank_is_no_answer_whatever_is_confirmed_beside_it(tmp_path: Path) -> None:
    text = "WorkerId,AssignmentStatus,Input.image,Answer.a.label,Answer.a.sure\n"
    file = written(tmp_path, "batch.csv", f"{text}W1,,1.jpg,,true\nW2,,1.jpg,Cat,true\n")
    assert triples(read_answers(file)) == [("1.jpg", "W2", "Cat")]


def test_a_label_column_may_say_true(tmp_path: Path) -> None:
    text = (
        "WorkerId,AssignmentStatus,Input.image,Answer.ok.label\nW1,,1.jpg,true\nW2,,1.jpg,false\n"
    )
    found = read_answers(written(tmp_path, "batch.csv", text))
    assert [label for _, _, label in triples(found)] == ["true", "false"]


HEAD = "WorkerId,AssignmentStatus,Input.image,"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{HEAD}Answer.a.x,Answer.a.y\nW,,1.jpg,true,maybe\n",
            "row 1: a is .*'maybe'.*, which names no",
        ),
        (f"{HEAD}Answer.a\nW,Rejected,1.jpg,x\nW,,1.jpg,\n", "1 are rejected, 1 empty"),
        (f"{HEAD}Answer.a\n,,1.jpg,x\n", "row 1 has an empty task, worker or label"),
        (f'{HEAD}Answer.a.labels\nW,,1.jpg,"[{{}}, []]"\n', "0 are rejected, 1 empty"),
        *(
            (f"{HEAD}Answer.taskAnswers\nW,,1.jpg,{json_}\n", f"row 1: the JSON answer.*{said}")
            for json_, said in [
                ("{nope", "Invalid JSON"),
                ("[1]", "0: Input should be an object"),
                ("[" * 100_000, "recursion limit"),
                ('"{""a"": NaN}"', "nan, which names no label"),
                ('"{""a"": ""\\ud800""}"', "Invalid JSON"),
                (f'"{{""a"": {"9" * 5000}}}"', "number out of range"),
                ('"{""a"": 1, ""b"": 2}"', r"2 answer fields \(a, b\)"),
                ('"{""a"": {""b"": {}}}"', "names no label"),
            ]
        ),
    ],
)
def test_mturk_results_that_cannot_be_read(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_answers(written(tmp_path, "batch.csv", text), "mturk")


def test_ground_truth_manifest(tmp_path: Path) -> None:
    settled = {
        "source-ref": "s3://shop/1.jpg",
        "pattern": 0,
        "pattern-metadata": {
            "class-name": "dots",
            "confidence": 0.0,
            "type": "groundtruth/image-classification",
            "human-annotated": "yes",
        },
    }
    unasked = {"source-ref": "s3://shop/2.jpg"}
    file = written(tmp_path, "out.manifest", "\n".join(map(json.dumps, [settled, unasked])) + "\n")
    found = read_answers(file)
    assert triples(found) == [("s3://shop/1.jpg", crowd_answers.CONSOLIDATED, "dots")]
    # Ground Truth has voted already: no second answer is asked for, no gold task either
    labels, _ = consensus(found, gold={"elsewhere": "x"})
    assert labels["s3://shop/1.jpg"].label == "dots"


def test_ground_truth_custom_job(tmp_path: Path) -> None:
    content = [json.dumps({"pattern": {"label": label}}) for label in ("dots", "dots", "plain")]
    record = {
        "source-ref": "s3://shop/1.jpg",
        "votes": {
            "annotationsFromAllWorkers": [
                {"workerId": f"w{i}", "annotationData": {"content": text}}
                for i, text in enumerate(content)
            ]
        },
    }
    found = read_answers(written(tmp_path, "out.manifest", json.dumps(record)))
    assert [row[1:] for row in triples(found)] == [("w0", "dots"), ("w1", "dots"), ("w2", "plain")]
    assert consensus(found)[0]["s3://shop/1.jpg"].label == "dots"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.csv",
            "task,label\n1,2\n",
            "no column 'worker'; there are task, label; needed are",
        ),
        ("a.csv", "task,worker,label\n1,ann,\n", "row 1 has an empty task, worker or label"),
        ("a.manifest", '{"source": 1}\n', "line 1: source-ref: Field required"),
        ("a.parquet", "PAR1 and no more", "not a Parquet file"),
    ],
)
def test_files_that_are_no_answers(tmp_path: Path, name: str, content: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_answers(written(tmp_path, name, content))


LINE = '{"source-ref": "1.jpg", '


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{nope", "Invalid JSON"),
        ('{"source-ref": 1}', "source-ref: Input should be a valid string"),
        (LINE + '"a": ' + "[" * 300 + "}", "recursion limit"),
        (LINE + '"a": 1, "a-metadata": 7}', "a-metadata of a classification"),
        (LINE + '"a": 1, "a-metadata": {}}', "class-name: Field required"),
        (LINE + '"a": {"annotationsFromAllWorkers": [{"workerId": 1}]}}', "annotationData"),
        (LINE + '"a": {"annotationsFromAllWorkers": 5}}', "annotationsFromAllWorkers"),
        (LINE + '"a": 1, "a-metadata": {}, "b-metadata": {}, "b": 1}', "2 label attributes"),
    ],
)
def test_manifests_that_cannot_be_read(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(InputError, match=f"out.manifest: line 2.*{expected}"):
        read_answers(written(tmp_path, "out.manifest", f'{{"source-ref": "0.jpg"}}\n{line}\n'))
    with pytest.raises(InputError, match="no line has an answer in size"):
        read_answers(written(tmp_path, "a.manifest", '{"source-ref": "0.jpg"}\n'), answer="size")


def test_gold_without_a_label_is_no_gold(tmp_path: Path) -> None:
    file = written(tmp_path, "gold.csv", "task,label\n1,cat\n2,\n3, \n1,cat\n")
    assert read_gold(file) == [("1", "cat"), ("1", "cat")]
    for text, expected in [
        ("1,\n", "no task has a label"),
        (",cat\n", "row 1 has a label and no task"),
    ]:
        with pytest.raises(InputError, match=expected):
            read_gold(written(tmp_path, "gold.csv", f"task,label\n{text}"))


def test_labels_that_differ_in_spelling_only(tmp_path: Path) -> None:
    labels = ["Cat", " cat", "cat", "ＣＡＴ", "T  Shirt", "t shirt", "dog"]
    assert {normalized(label) for label in labels} == {"cat", "t shirt", "dog"}
    _, audit = consensus(frame(one="a:Cat b:cat c:dog"))
    assert audit.spellings == [["Cat", "cat"]]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_answers(str(tmp_path / "none.csv"))


def test_dawid_skene_weighs_workers() -> None:
    # c contradicts a and b on every task; two poor answers do not outweigh many good ones
    answers = {f"t{i}": f"a:{'xy'[i % 2]} b:{'xy'[i % 2]} c:{'yx'[i % 2]}" for i in range(10)}
    found, _ = consensus(frame(**answers, last="a:x c:y"), Rules(method="dawid-skene"))
    assert found["t0"].label == "x" and found["t1"].label == "y"
    assert found["last"].label == "x"  # c is known to say the other thing
