"""scripts/train_classifier.py: texts with labels, three ways, one table."""

import re
from pathlib import Path

import pytest

import train_classifier
from bert_extract import InputError
from train_classifier import (
    FINE_TUNED,
    FROZEN,
    PRECOMPUTED,
    Result,
    Texts,
    read_texts,
    to_report,
)

CONLLU = """\
# newdoc id = weblog-a.com_1
# sent_id = weblog-a.com_1-0001
# text = From the AP  comes this = story :
1\tFrom\tfrom\tADP\tIN\t_\t3\tcase\t_\t_

# sent_id = email-enron-0001
# newpar id = p1
# text = # 1 is fine
1\t#\t#\tSYM\t$\t_\t2\tnmod\t_\t_

"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_label_of_a_sentence_is_what_its_name_begins_with(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path / "a.conllu", CONLLU)) == Texts(
        ("From the AP comes this = story :", "# 1 is fine"), ("weblog", "email")
    )


def test_a_line_of_tsv_is_a_label_and_a_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "good\tthe river \t bank\r\n\nbad\tmoney\u2028x\n")
    assert read_texts(path) == Texts(("the river bank", "money x"), ("good", "bad"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "good\ta\nbad\n", r"a\.tsv: line 2: expected a label, a tab and a"),
        ("a.tsv", "\ta\n", "line 1: expected a label"),
        ("a.tsv", "", "expected texts with labels, found none"),
        ("a.conllu", "# text = a\n", "line 1: expected '# sent_id"),
        ("a.tsv", "good\t\udcff\n", "is not UTF-8"),
    ],
)
def test_what_is_no_such_file_is_refused(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        read_texts(path)


def test_a_file_that_is_not_there_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"{tmp_path}/none.tsv"
    flags = ["--model_dir=x", f"--train_file={path}", f"--test_file={path}"]
    assert train_classifier.main(flags) == 1
    assert capsys.readouterr().err == (
        f"train_classifier.py: {path}: cannot be read: No such file or directory\n"
    )


def test_the_table_says_what_was_found() -> None:
    train = Texts(("a", "b", "c"), ("x", "y", "x"))
    test = Texts(("d", "e"), ("y", "x"))
    results = [
        Result(PRECOMPUTED, (0.5, 0.75), 12.34, 0.5, 0.9, 0.1, 10, 1234, 1234.5),
        Result(FINE_TUNED, (0.8,), 1.0, 30.0, 55.0, 9.0, 4, 22000000, 2000.0),
    ]
    assert to_report(results, train, test).splitlines() == [
        "3 texts to train with, 2 to test with, 2 labels; who always says 'x' (2 of "
        "the first) is right in 50.0% of the second.",
        "",
        "| | accuracy | trained | once, CPU s | an epoch, s | CPU s | epochs "
        "| the test, s | peak memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
        "| precomputed | 62.5% ± 17.7 | 1,234 | 12.3 | 0.50 | 0.90 | 10 | 0.10 "
        "| 1,234 |",
        "| fine-tuned | 80.0% | 22,000,000 | 1.0 | 30.00 | 55.00 | 4 | 9.00 | 2,000 |",
    ]


@pytest.mark.slow
def test_all_three_ways_learn(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"a": "the river bank", "b": "money took money"}
    lines = [
        f"{label}\t{text} {n}\n" for n in range(12) for label, text in texts.items()
    ]
    train = write(tmp_path / "train.tsv", "".join(lines))
    test = write(tmp_path / "test.tsv", "".join(lines[:10]))
    flags = [
        *(f"--model_dir={tiny_bert}", f"--train_file={train}", f"--test_file={test}"),
        *("--num_seeds=1", "--head_epochs=20", "--head_rate=0.02", "--batch_size=8"),
        *("--tuned_epochs=10", "--tuned_rate=0.005", "--max_seq_length=16"),
    ]
    assert train_classifier.main(flags) == 0
    report = capsys.readouterr().out
    rows = re.findall(
        r"^\| ([\w-]+(?: \w+)?) \| ([\d.]+)% \| ([\d,]+) \|", report, re.M
    )
    assert [way for way, _, _ in rows] == [PRECOMPUTED, FROZEN, FINE_TUNED]
    assert [float(accuracy) for _, accuracy, _ in rows] == [100.0] * 3
    head = 32 * 128 + 128 + 128 * 2 + 2
    trained = [int(number.replace(",", "")) for _, _, number in rows]
    assert trained[:2] == [head, head]
    assert trained[2] > 60_000
