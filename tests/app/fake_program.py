"""What the commands of a training leave behind, in a few milliseconds. Imports as little as it can."""

import json
import os
import sys
import time
import zipfile


def read(path):
    with open(path) as file:
        return json.load(file)


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".tmp", "w") as file:
        json.dump(content, file)
    os.replace(path + ".tmp", path)


def workspace_of(path):
    while os.path.basename(path) != "runs":
        path = os.path.dirname(path)
    return os.path.dirname(path)


def train(run_dir, *configs):
    overlay = read(configs[-1])
    assert overlay["run_dir"] == run_dir and os.path.getsize(overlay["data_list_file_path"])
    if overlay["warm_start"]:
        assert os.path.getsize(overlay["warm_start"])
    epochs = overlay["stage_1_epochs"] + overlay["stage_2_epochs"]
    write(f"{run_dir}/model.json", {"class_names": overlay["class_names"], "network_def": {}})
    with open(f"{run_dir}/history.jsonl", "a") as file:
        for epoch in range(1, epochs + 1):
            file.write(json.dumps({"epoch": epoch, "stage": 1 if epoch <= overlay["stage_1_epochs"] else 2,
                                   "loss_labeled_3d": 1.0 / epoch, "val_dice_3d": 0.5, "seconds": 0.5}) + "\n")
    write(f"{run_dir}/models/model.pt", {"run": run_dir})
    with zipfile.ZipFile(f"{run_dir}/models/checkpoint.pt", "w") as archive:  # as torch's
        archive.writestr("run", run_dir)


def compare(plan_file, results):
    plan = read(plan_file)
    wishes = read(f"{workspace_of(plan_file)}/behave.json")
    loadable = plan["version"] not in wishes.get("damaged", [])
    for task in (task for task in plan["tasks"] if task["needed"] or loadable):
        assert os.path.isfile(task["model_file"]) and os.path.isfile(task["overlay"])
        for case in task["cases"]:
            write(f"{task['folder']}/{case}.nii.gz", {"by": task["model_file"]})
    dice = wishes.get("dice", 0.8)

    def measured(masks, value):
        parts = {"dice": value, "hd95_mm": 1.0, "volume_ml": 10.0, "truth_ml": 10.0}
        return [{"case": case, "patient": plan["patients"][case], "dice": value, "classes": {"organ": parts},
                 "empty": False} for case, mask in sorted(masks.items()) if os.path.isfile(mask)]

    published = None if plan["published"] is None else measured(plan["published"], 0.8)
    write(results, {"version": plan["version"], "loadable": bool(published) or loadable,
                    "candidate": measured(plan["candidate"], dice),
                    "published": published, "own": measured(plan["own"], wishes.get("own_dice", dice)),
                    "faults": {}})


def score(run_dir):
    write(f"{run_dir}/scores.json", {"scans": {}})


def check(datalist, faults):
    write(faults, read(f"{workspace_of(datalist)}/behave.json").get("faults", {}))


def main(name, *arguments):
    wishes = read(f"{workspace_of(arguments[0])}/behave.json")
    print(f"{name} begins", flush=True)
    time.sleep(wishes.get("sleep", {}).get(name, 0))
    text = wishes.get("fail", {}).get(name)
    if text and not (wishes.get("once") and os.path.exists(f"{arguments[0]}.failed")):
        if wishes.get("once"):
            open(f"{arguments[0]}.failed", "w").close()
        print(text, flush=True)
        sys.exit(1)
    {"train": train, "compare": compare, "score": score, "check": check}[name](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
