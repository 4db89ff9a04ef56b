"""`generate --cluster`: the run on Ray, and the files beside its pairs. Ray is imported only when it is asked for."""

import importlib.util
import json

from services.generation.commands.bar import shown
from services.generation.commands.dataset_card import dataset_card
from services.generation.commands.options import Options, make_plan
from services.generation.settings import GenerationSettings
from shared.errors import Fatal
from shared.pair_shards import MANIFEST
from shared.process import claim_stdout, configure_logging
from shared.settings import Settings, load

NEEDED = ("ray", "pyarrow")
CARD, REJECTED = "README.md", "rejected.jsonl"


def generate_on_cluster(options: Options) -> None:
    """Write what is missing, print the summary as one line of JSON. Raises `Fatal`."""
    assert options.cluster is not None
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        raise Fatal(
            "--cluster: needs the extra `cluster`: .venv/bin/python -m pip install -c constraints.txt '.[cluster]'"
        )
    if options.push_to_hub or options.rejected:
        name = "--push-to-hub" if options.push_to_hub else "--rejected"
        raise Fatal(f"{name}: does not go with --cluster, which writes {CARD} and {REJECTED} into the folder")
    from services.generation.cluster import run

    stdout = claim_stdout()
    common, own = load(Settings), load(GenerationSettings)
    configure_logging("WARNING" if common.log_level == "INFO" else common.log_level, common.log_format, "generation")
    plan, wanted = make_plan(options, own.task_dir), options.cluster
    asked = run.ClusterOptions(
        wanted.address, wanted.out, wanted.inputs, options.column, options.skip_bad, wanted.actors, wanted.cpus,
        wanted.shard,
    )  # fmt: skip
    with shown(0, common.log_format == "human") as show:
        outcome = run.generate_on_cluster(asked, plan, common, own, show)
    manifest = outcome.manifest
    if outcome.progress is not None:
        given = manifest["given"]["texts"] if manifest["given"] else None
        card = dataset_card(plan, outcome.progress, common.teacher, ["pairs/*.parquet"], outcome.examples, given)
        rejected = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in outcome.rejected)
        run.finish(outcome, {CARD: card, REJECTED: rejected})
    files = [outcome.folder.place(name) for name in ("pairs", MANIFEST, CARD, REJECTED)]
    counts = {name: value for name, value in manifest.items() if not name.startswith("shards")}
    print(json.dumps(counts | {"files": files}), file=stdout, flush=True)
