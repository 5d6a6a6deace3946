"""Seams of other libraries that radrep leans on, each pinned alone.

A test that fails here after an upgrade names the library, and in its docstring what breaks.
"""

import inspect
import io
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_transformers_calls_a_registered_attention_with_these_names():
    """radrep/modules/hybrid_decoder.py: its attention, and all hybrid layers."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    from radrep.modules.language_model import load_language_model

    seen: dict[str, object] = {}

    def attend(module, query, key, value, attention_mask, **others):
        seen.update(others, module=module, query=query, key=key, mask=attention_mask)
        shape = (len(query), query.shape[2], query.shape[1], query.shape[3])
        return torch.zeros(shape), None

    AttentionInterface.register("canary", attend)
    AttentionMaskInterface.register("canary", sdpa_mask)
    model = load_language_model("tiny:qwen2", cache_folder=Path("unused")).model
    model.set_attn_implementation("canary")
    model(inputs_embeds=torch.zeros(2, 5, 128))
    assert {"scaling", "dropout", "position_ids"} <= seen.keys()
    assert tuple(seen["query"].shape) == (2, 4, 5, 32)  # rows, heads, positions, width
    assert tuple(seen["key"].shape) == (2, 2, 5, 32)
    assert seen["position_ids"] is None or tuple(seen["position_ids"].shape[-1:]) == (5,)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_layers_of_transformers_have_these_parts(family):
    """radrep/modules/hybrid_decoder.py copies them; radrep/models/emrrg.py names them to LoRA."""
    from radrep.modules.language_model import load_language_model

    model = load_language_model(f"tiny:{family}", cache_folder=Path("unused")).model
    layer = model.get_decoder().layers[0]
    attention = layer.self_attn
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert isinstance(getattr(attention, name), nn.Linear)
    assert (attention.head_dim, attention.layer_idx, attention.attention_dropout) == (32, 0, 0.0)
    assert isinstance(layer.input_layernorm, nn.Module)
    assert model.get_input_embeddings().weight.shape[1] == model.config.hidden_size


def test_transformers_generates_from_a_prompt_of_vectors_the_new_ids_alone():
    """radrep/models/prompted.py: prompts of visual tokens, and ids that begin behind them."""
    from transformers import GenerationConfig, LogitsProcessorList

    from radrep.modules.language_model import load_language_model

    model = load_language_model("tiny:llama", cache_folder=Path("unused")).model
    prompt = torch.zeros(2, 4, 128)
    calls: list[tuple[int, ...]] = []

    def forbid(ids, scores):
        calls.append(tuple(ids.shape))
        return scores

    ids = model.generate(
        inputs_embeds=prompt,
        attention_mask=torch.ones(2, 4, dtype=torch.long),
        generation_config=GenerationConfig(max_new_tokens=3, min_new_tokens=3, pad_token_id=0),
        logits_processor=LogitsProcessorList([forbid]),
    )
    assert ids.shape == (2, 3)
    assert calls == [(2, 0), (2, 1), (2, 2)]
    output = model(inputs_embeds=prompt, use_cache=False, logits_to_keep=1)
    assert output.logits.shape[:2] == (2, 1)


def test_transformers_reads_models_without_their_code():
    """radrep/modules/language_model.py and text_encoder.py: NO_CODE, GGUF, and quiet loading."""
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging

    assert GgufConfig(dequantize=True).dequantize is True
    for loader in (AutoConfig.from_pretrained, AutoModelForCausalLM.from_config):
        assert "trust_remote_code" in inspect.getsource(loader)
    logging.set_verbosity(logging.get_verbosity())
    assert callable(logging.disable_progress_bar)
    assert isinstance(logging.is_progress_bar_enabled(), bool)


def test_the_hubs_cache_is_laid_out_by_commit(tmp_path):
    """radrep/hub.py: which commit weights are from."""
    from huggingface_hub import try_to_load_from_cache

    commit = "a" * 40
    snapshot = tmp_path / "models--o--m" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    found = try_to_load_from_cache("o/m", "config.json", cache_dir=tmp_path, revision="main")
    assert Path(found).parent.name == commit


def test_peft_puts_adapters_into_named_layers():
    """radrep/models/emrrg.py: LoRA in the language model, and the names of its tensors."""
    from peft import LoraConfig, inject_adapter_in_model

    model = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), model)
    names = [name for name, _ in model.named_parameters() if ".lora_" in name]
    assert names == ["q_proj.lora_A.default.weight", "q_proj.lora_B.default.weight"]


def test_accelerate_has_what_training_asks_it():
    """radrep/training/accelerator.py, loop.py and run.py."""
    from accelerate import Accelerator, PartialState
    from accelerate.utils import broadcast_object_list, gather_object, reduce

    assert isinstance(PartialState._shared_state, dict)
    accelerator = Accelerator(mixed_precision="no")
    assert PartialState._shared_state
    assert (accelerator.num_processes, accelerator.process_index) == (1, 0)
    assert accelerator.is_main_process
    model = accelerator.prepare(nn.Linear(2, 2))
    with accelerator.no_sync(model):
        model(torch.zeros(1, 2, device=accelerator.device)).sum().backward()
    accelerator.wait_for_everyone()
    assert broadcast_object_list([3]) == [3]
    assert gather_object([3]) == [3]
    assert reduce(torch.ones(2), reduction="sum").tolist() == [1, 1]


def test_accelerates_launcher_sets_these_variables():
    """radrep/training/accelerator.py: which ways of launching are refused."""
    import accelerate

    source = "".join(
        file.read_text() for file in Path(accelerate.__file__).parent.glob("utils/launch.py")
    )
    for name in ("USE_FSDP", "USE_DEEPSPEED", "USE_MEGATRON_LM", "USE_PARALLELISM_CONFIG"):
        assert f"ACCELERATE_{name}" in source
    assert "ACCELERATE_USE_CPU" in source


def test_datasets_opens_a_stream_of_arrow_in_place(tmp_path):
    """radrep/data/arrow.py and store.py: shards are written by pyarrow and mapped by datasets."""
    import pyarrow
    from datasets import Dataset, Features, Image, List, Value, concatenate_datasets

    features = Features(
        {"id": Value("string"), "images": List(Image(decode=False)), "n": List(Value("int8"))}
    )
    schema = features.arrow_schema
    rows = [{"id": str(k), "images": [{"bytes": b"x", "path": None}], "n": [k]} for k in range(3)]
    with (tmp_path / "a.arrow").open("wb") as file:
        stream = pyarrow.ipc.new_stream(file, schema)
        stream.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=schema))
        stream.close()
    opened = concatenate_datasets([Dataset.from_file(str(tmp_path / "a.arrow"))] * 2)
    assert opened.features == features
    row = opened.data.fast_slice(4, 1)
    assert row.column("id")[0].as_py() == "1"
    assert row.column("images")[0][0]["bytes"].as_py() == b"x"
    assert opened.select_columns(["id"])[:]["id"] == list("012012")
    assert pyarrow.total_allocated_bytes() < 10**6  # mapped, not read


def test_timm_names_its_maps_and_stages():
    """radrep/modules/backbone.py: strides, stages that stay frozen, normalisation, hub names."""
    import timm

    name = "test_resnet.r160_in1k"
    assert timm.is_model(name)
    maps = timm.create_model(name, pretrained=False, features_only=True)
    assert maps.feature_info.reduction() == [2, 4, 8, 16, 32]
    resnet = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    assert isinstance(resnet, timm.models.ResNet)
    for part in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        assert isinstance(getattr(resnet, part), nn.Module)
    net = timm.create_model("test_efficientnet", pretrained=False, num_classes=0)
    assert isinstance(net, timm.models.EfficientNet)
    for part in ("conv_stem", "bn1", "blocks", "conv_head", "bn2"):
        assert isinstance(getattr(net, part), nn.Module)
    assert {"mean", "std"} <= timm.data.resolve_model_data_config(resnet).keys()
    assert timm.models.get_pretrained_cfg(name).hf_hub_id == "timm/test_resnet.r160_in1k"


def test_pycocoevalcap_speaks_to_meteor_in_these_lines():
    """radrep/metrics/nlg.py speaks to METEOR's program itself, in place of this wrapper."""
    from pycocoevalcap.meteor import meteor

    folder = Path(meteor.__file__).parent
    assert (folder / meteor.METEOR_JAR).is_file()
    assert (folder / "data" / "paraphrase-en.gz").is_file()
    source = inspect.getsource(meteor.Meteor)
    for part in ("'-'", "'-stdio'", "'-l'", "'en'", "'-norm'", "'SCORE'", "' ||| '"):
        assert part in source


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")
def test_meteors_program_answers_a_pair_with_23_numbers():
    """radrep/metrics/nlg.py adds them up over the reports."""
    from pycocoevalcap.meteor import meteor

    done = subprocess.run(
        ["java", "-jar", "-Xmx2G", meteor.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"],
        input="SCORE ||| the lungs are clear ||| lungs clear\n",
        capture_output=True,
        cwd=Path(meteor.__file__).parent,
        text=True,
        timeout=600,
    )
    assert len(done.stdout.split()) == 23, done.stderr


def test_mamba_ssms_kernel_takes_these_arguments():
    """radrep/ops/selective_scan/cuda.py calls it by position."""
    interface = pytest.importorskip("mamba_ssm.ops.selective_scan_interface", exc_type=ImportError)
    names = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus"]
    assert parameters(interface.selective_scan_fn) == [*names, "return_last_state"]
    assert hasattr(interface, "selective_scan_cuda")


def test_a_lock_of_filelock_ends_with_its_process(tmp_path):
    """radrep/atomic.py: one run a folder, and none refused after a kill."""
    from filelock import FileLock, Timeout

    path = tmp_path / "lock"
    code = (
        "import os, sys; from filelock import FileLock; lock = FileLock(sys.argv[1]);"
        "lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline().strip() == b"held"
        with pytest.raises(Timeout):
            FileLock(path).acquire(timeout=0.1)
        holder.kill()
        holder.wait()
    lock = FileLock(path)
    lock.acquire(timeout=5)
    lock.release()


def test_safetensors_keeps_metadata_and_refuses_what_does_not_fit_its_file(tmp_path):
    """radrep/weights/files.py: weights are refused by header and size before they are read."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file

    file = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(4)}, file, {"about": "x"})
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"about": "x"}
    assert stat.S_IMODE(os.stat(file).st_mode) & 0o600 == 0o600
    for broken in (file.read_bytes()[:-1], file.read_bytes() + b"x"):
        file.write_bytes(broken)
        with pytest.raises(SafetensorError):
            load_file(file)


def test_torchs_archives_name_their_pickle_and_what_it_calls(tmp_path):
    """radrep/torch_files.py: what a file would call, and its pickle, before anything is loaded."""
    import argparse

    from torch._C import PyTorchFileReader
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(2), "args": argparse.Namespace(a=1)}, path)
    assert get_unsafe_globals_in_checkpoint(path) == ["argparse.Namespace"]
    assert PyTorchFileReader(str(path)).get_record("data.pkl").startswith(b"\x80\x02")
    with safe_globals([(argparse.Namespace, "argparse.Namespace")]):
        assert set(torch.load(path, weights_only=True)) == {"w", "args"}
    torch.save({}, path, _use_new_zipfile_serialization=False)
    assert path.read_bytes().startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


def test_pydicom_yields_elements_as_they_stand_in_the_file(tmp_path):
    """radrep/data/dicom/file.py and elements.py read them before pydicom converts them."""
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import data_element_generator
    from pydicom.pixels import pixel_array

    from tests.data.dicom.drawing import GREY, write_dicom

    file = write_dicom(tmp_path / "a.dcm", GREY).read_bytes()
    content = io.BytesIO(file[file.index(b"\x08\x00\x16\x00") :])
    stop = 0x7FE00010
    elements = list(
        data_element_generator(content, False, True, stop_when=lambda tag, vr, size: tag == stop)
    )
    assert all(isinstance(element, RawDataElement) for element in elements)
    assert {"tag", "VR", "length", "value", "is_little_endian"} <= set(RawDataElement._fields)
    assert {"decoding_plugin", "kwargs"} <= set(parameters(pixel_array))


def test_pillow_shrinks_while_it_decodes_and_bounds_what_it_opens():
    """radrep/data/image_io.py: half the time for a large JPEG, and no bomb."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.zeros((256, 256), np.uint8)).save(file, "JPEG")
    picture = Image.open(file, formats=["JPEG"])
    assert picture.draft("L", (64, 64)) == ("L", (0, 0, 64, 64))
    assert picture.size == (64, 64)
    assert issubclass(Image.DecompressionBombError, Exception)
    assert 64 * 10**6 < Image.MAX_IMAGE_PIXELS < 100 * 10**6


def test_pyyaml_composes_node_by_node():
    """radrep/recipe/bounded_yaml.py counts and bounds them there."""
    import yaml

    assert parameters(yaml.SafeLoader.compose_node) == ["self", "parent", "index"]
    loader = yaml.SafeLoader("a: &x [1]\nb: *x")
    root = loader.get_single_node()
    assert root.value[0][1] is root.value[1][1]  # an alias is the node itself


def test_a_subclass_of_tarinfo_sees_metadata_before_it_is_read():
    """radrep/preparation/sources/iu_xray/images.py refuses long names and headers there."""
    import tarfile

    assert parameters(tarfile.TarInfo._proc_member) == ["self", "tarfile"]


def test_the_hubs_client_takes_these_arguments():
    """radrep/weights/bundle.py: radrep push, and ReportGenerator.from_pretrained of the hub."""
    from huggingface_hub import HfApi, snapshot_download

    from tests.weights.test_bundle import Hub

    for name in ("whoami", "create_repo", "repo_info", "create_branch", "upload_folder"):
        real = inspect.signature(getattr(HfApi, name)).parameters
        for argument, own in inspect.signature(getattr(Hub, name)).parameters.items():
            assert real[argument].kind == own.kind, f"{name}({argument})"
            assert real[argument].default == own.default, f"{name}({argument})"
    assert {"repo_id", "revision", "allow_patterns"} <= set(parameters(snapshot_download))
    assert parameters(snapshot_download)[0] == "repo_id"
