"""The SLURM script and the Kubernetes manifest of configs/cluster do what they say."""

import copy
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bert_extract import cli
from bert_extract.extractor import FeatureExtractor
from support.job_runs import sha256, write_input
from support.ray_nodes import RayNodes, may_make_networks
from support.running import REPOSITORY, flags_for, options_for

RECIPES = REPOSITORY / "configs" / "cluster"
SCHEMA = Path(__file__).parents[1] / "support" / "rayjob_schema.json"

# It takes its own options away and runs the rest "on" the node that they name.
SRUN = """\
#!/bin/bash
while [[ $1 == --* ]]; do
    case $1 in --nodelist=*) node=${1#*=} ;; esac
    shift
done
[ "$1" != hostname ] || { echo "$node 10.9.8.7"; exit; }
echo "$node $*" >> "$(dirname "$0")/started"
exec "$@"
"""


def manifest() -> dict[str, Any]:
    content = yaml.safe_load((RECIPES / "rayjob.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def schema() -> dict[str, Any]:
    content = json.loads(SCHEMA.read_bytes())
    assert isinstance(content, dict)
    return content


def test_the_manifest_is_a_rayjob() -> None:
    jsonschema.validate(manifest(), schema())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entryPoint"), "x"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "none"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"), "4"),
    ],
)
def test_the_schema_finds_mistakes(path: tuple[Any, ...], value: Any) -> None:
    broken = copy.deepcopy(manifest())
    place: Any = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema())


def test_the_manifests_command_is_one_of_ours_and_its_volumes_are_there() -> None:
    spec = manifest()["spec"]
    command, *flags = shlex.split(spec["entrypoint"])
    assert command == "bert-extract"
    assert cli.main([command, *flags, "--only_check_args"]) == 0
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts == {"shared": "/shared"}
        assert {each["name"] for each in pod["volumes"]} == {"shared"}


def test_the_slurm_script_is_a_shells() -> None:
    script = RECIPES / "ray.slurm"
    assert script.read_text().startswith("#!/bin/bash\n#SBATCH ")
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.slow
@pytest.mark.cluster
def test_the_slurm_script_writes_what_one_process_writes(
    tiny_bert: Path, tmp_path: Path
) -> None:
    if not may_make_networks():
        pytest.skip("no networks can be made here")
    text = write_input(tmp_path / "in.txt", 1000)
    with FeatureExtractor(options_for(tiny_bert, layers="-1")) as extractor:
        extractor.extract_file(str(text), str(tmp_path / "local.jsonl"))
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "srun").write_text(SRUN)
    (bin_folder / "scontrol").write_text("#!/bin/sh\necho 127.0.0.2\necho 127.0.0.3\n")
    for script in bin_folder.iterdir():
        script.chmod(0o755)
    nodes = RayNodes(tmp_path)
    try:
        done = nodes.run(
            [
                *("bash", str(RECIPES / "ray.slurm")),
                *flags_for(tiny_bert, layers="-1"),
                f"--input_file={text}",
                f"--output_file={tmp_path}/out.jsonl",
                "--split_bytes=1000",
            ],
            PATH=f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            SLURM_JOB_NODELIST="127.0.0.[2-3]",
            SLURM_JOB_ID=tmp_path.name[-20:],
            SLURM_CPUS_PER_TASK="1",
        )
        assert done.returncode == 0, done.stderr
        # All that it started has ended with it, but what Ray leaves to end by itself.
        assert nodes.processes("raylet/raylet") == []
    finally:
        nodes.close()
    assert sha256(tmp_path / "out.jsonl") == sha256(tmp_path / "local.jsonl")
    assert "(127.0.0.2): a worker is ready" in done.stderr
    assert "(127.0.0.3): a worker is ready" in done.stderr
    started = (bin_folder / "started").read_text().splitlines()
    assert [line.split()[:3] for line in started] == [
        ["127.0.0.2", "ray", "start"],
        ["127.0.0.3", "ray", "start"],
    ]
