import pytest
import torch

from cryorefine.engine.device import INSTALL_CUDA, choose_device, device_name, device_of_run
from cryorefine.settings import make_settings
from tests.builders import refused


def with_gpus(monkeypatch, count: int, cuda: str | None = "12.8") -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.version, "cuda", cuda)


def test_automatic_is_a_gpu_where_there_is_one_and_the_cpu_elsewhere(monkeypatch):
    with_gpus(monkeypatch, 2)
    assert choose_device("auto") == torch.device("cuda", 0)
    with_gpus(monkeypatch, 0)
    assert choose_device("auto") == torch.device("cpu")


def test_the_cpu_is_used_when_asked_for_whatever_else_there_is(monkeypatch):
    with_gpus(monkeypatch, 1)
    assert choose_device("cpu") == torch.device("cpu")


def test_a_gpu_is_chosen_by_its_number(monkeypatch):
    with_gpus(monkeypatch, 3)
    assert choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:2") == torch.device("cuda", 2)
    with refused("no CUDA device 3", "--device cuda:3", "below 3"):
        choose_device("cuda:3")


def test_without_cuda_in_torch_the_line_that_installs_it_is_told(monkeypatch):
    with_gpus(monkeypatch, 0, cuda=None)
    with refused("--device cuda", INSTALL_CUDA, "--device cpu"):
        choose_device("cuda")


def test_without_a_working_driver_that_is_said(monkeypatch):
    with_gpus(monkeypatch, 0)
    with refused("finds no CUDA device", "nvidia-smi"):
        choose_device("cuda:1")


def test_the_name_of_a_gpu_says_its_model(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L40S")
    assert device_name(torch.device("cuda", 1)) == "cuda:1 (NVIDIA L40S)"
    assert device_name(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "CUDA"])
def test_no_other_device_is_known(name):
    with refused("--device"):
        make_settings({"particles": "p.star", "device": name})


def test_particles_own_optics_are_refined_on_the_cpu_whatever_else_there_is(monkeypatch):
    with_gpus(monkeypatch, 1)
    settings = make_settings({"particles": "p.star", "reference": ["m.mrc"], "refine_grey": True})
    assert settings.refines_optics
    assert device_of_run("auto", refines_optics=True) == torch.device("cpu")
    with refused("CPU only", "--device cuda"):
        device_of_run("cuda", refines_optics=True)
