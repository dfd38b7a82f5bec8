"""What scripts/env.sh gives a shell, as a workspace's setup.bash would, and what scripts/setup.sh installs or refuses."""

import os
import platform
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELLS = [shell for shell in ("bash", "zsh") if shutil.which(shell)]
# Elsewhere a bare environment has no ROS 2 or libtorch to be set up with.
USES_OURS = "_ROS_WHEELS_BOOTSTRAP_COMPLETE" in os.environ and os.environ.get("LIBTORCH", "") in os.environ.get(
    "_XVLA_ROS_ADDED", ""
)
SKIPPED = "this shell uses a ROS 2 or libtorch of its own (or did not source scripts/env.sh)"
# What decides which parts are installed and where; all else of a person's environment is left out.
DECISIVE = ("HOME", "XVLA_ROS_CACHE", "XVLA_CUDA", "CUDA_HOME", "CUDA_PATH")
LISTS = ("PATH", "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "LD_LIBRARY_PATH", "PYTHONPATH")


def bare_environment() -> dict[str, str]:
    """The environment of somebody who sourced nothing."""
    kept = {name: os.environ[name] for name in DECISIVE if name in os.environ}
    return {**kept, "PATH": "/usr/local/bin:/usr/bin:/bin"}


def environment_after(shell: str, script: str, **given: str) -> dict[str, str]:
    """What `env` says at the end of a script run by a shell in /."""
    result = subprocess.run(
        [shell, "-c", f"set -eu\n{script}\nenv -0"],
        cwd="/",
        env={**bare_environment(), **given},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(entry.split("=", 1) for entry in result.stdout.split("\0") if entry)


def sourced(times: int = 1) -> str:
    return f"source '{ROOT}/scripts/env.sh'\n" * times


def imagined_ros(folder: str) -> str:
    """A prefix that looks like an installed ROS 2 as far as choosing between it and ours goes."""
    (Path(folder) / "share/rosidl_default_generators").mkdir(parents=True)
    return folder


@unittest.skipUnless(USES_OURS, SKIPPED)
class EnvironmentTest(unittest.TestCase):
    def test_rclpy_and_our_messages_import_in_every_shell(self) -> None:
        for shell in SHELLS:
            with self.subTest(shell=shell):
                environment = environment_after(shell, sourced())
                subprocess.run(
                    ["python3", "-c", "import rclpy; from xvla_ros.msg import ActionChunk; ActionChunk()"],
                    cwd="/",
                    env=environment,
                    check=True,
                )

    def test_sourcing_again_changes_nothing(self) -> None:
        for shell in SHELLS:
            with self.subTest(shell=shell):
                self.assertEqual(environment_after(shell, sourced(1)), environment_after(shell, sourced(3)))

    def test_no_path_holds_an_element_twice_or_an_empty_one(self) -> None:
        environment = environment_after("bash", sourced(2))
        for name in LISTS:
            elements = environment[name].split(":")
            self.assertEqual(len(elements), len(set(elements)), f"{name}: {elements}")
            self.assertNotIn("", elements, name)

    def test_what_the_person_had_on_the_paths_stays_behind_ours(self) -> None:
        environment = environment_after("bash", sourced(2), PYTHONPATH="/mine/python", LD_LIBRARY_PATH="/mine/lib")
        self.assertTrue(environment["PYTHONPATH"].endswith(":/mine/python"))
        self.assertTrue(environment["LD_LIBRARY_PATH"].endswith(":/mine/lib"))

    def test_nothing_but_exported_variables_is_left_behind(self) -> None:
        script = sourced() + "set | grep -E '^_xvla' || true; declare -F 2>/dev/null | grep _xvla || true"
        result = subprocess.run(
            ["bash", "-c", script], env=bare_environment(), capture_output=True, text=True, check=True
        )
        self.assertEqual(result.stdout, "")

    def test_a_profile_that_was_chosen_is_kept(self) -> None:
        environment = environment_after("bash", sourced(2), FASTRTPS_DEFAULT_PROFILES_FILE="/mine.xml")
        self.assertEqual(environment["FASTRTPS_DEFAULT_PROFILES_FILE"], "/mine.xml")

    def test_the_shared_memory_profile_is_chosen_where_none_was(self) -> None:
        environment = environment_after("bash", sourced())
        self.assertEqual(environment["FASTRTPS_DEFAULT_PROFILES_FILE"], f"{ROOT}/config/fastdds_shm.xml")

    def test_cuda_headers_are_not_named_where_the_person_has_a_toolkit(self) -> None:
        environment = environment_after("bash", sourced(2), CUDA_HOME="/mine", CUDA_PATH="")
        self.assertNotIn("XVLA_CUDA_INCLUDE", environment)

    @unittest.skipIf(os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"), "this shell has a CUDA toolkit")
    def test_cuda_headers_are_named_where_the_person_has_no_toolkit(self) -> None:
        environment = environment_after("bash", sourced(2))
        self.assertTrue((Path(environment["XVLA_CUDA_INCLUDE"]) / "cuda_runtime_api.h").exists())

    def test_folders_of_engine_libraries_are_named_and_hold_what_programs_open(self) -> None:
        environment = environment_after("bash", sourced(2), XVLA_ONNXRUNTIME_LIB="", XVLA_TENSORRT_LIB="")
        self.assertTrue((Path(environment["XVLA_ONNXRUNTIME_LIB"]) / "libonnxruntime.so.1").exists())
        if platform.machine() == "x86_64":
            for library in ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"):
                self.assertTrue((Path(environment["XVLA_TENSORRT_LIB"]) / library).exists(), library)

    def test_folders_of_engine_libraries_that_the_person_named_are_kept(self) -> None:
        for name in ("XVLA_ONNXRUNTIME_LIB", "XVLA_TENSORRT_LIB"):
            for shell in SHELLS:
                with self.subTest(name=name, shell=shell):
                    self.assertEqual(environment_after(shell, sourced(2), **{name: "/mine"})[name], "/mine")

    def test_the_onnx_checker_imports_from_the_folder_that_is_named(self) -> None:
        environment = environment_after("bash", sourced())
        environment["PYTHONPATH"] = environment["XVLA_ONNX_PYTHONPATH"]
        subprocess.run(["python3", "-c", "import onnx.checker"], cwd="/", env=environment, check=True)

    def test_building_finds_a_libclang(self) -> None:
        self.assertTrue(Path(environment_after("bash", sourced(2))["LIBCLANG_PATH"]).is_dir())

    def test_a_libclang_that_the_person_named_is_kept(self) -> None:
        self.assertEqual(environment_after("bash", sourced(2), LIBCLANG_PATH="/mine")["LIBCLANG_PATH"], "/mine")

    def test_a_shell_without_the_installed_parts_is_told_what_to_run(self) -> None:
        with tempfile.TemporaryDirectory() as empty:
            result = subprocess.run(
                ["bash", "-c", sourced()],
                env={**bare_environment(), "XVLA_ROS_CACHE": empty},
                capture_output=True,
                text=True,
                check=False,
            )
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("make build", result.stderr)


@unittest.skipUnless(USES_OURS, SKIPPED)
class ChoiceTest(unittest.TestCase):
    """Which ROS 2 and libtorch are used."""

    def located(self, script: str, **given: str) -> dict[str, str]:
        common = f"source '{ROOT}/scripts/common.sh'\n_xvla_forget_all\nset -a\n_xvla_locate '{ROOT}'"
        return environment_after("bash", f"{script}\n{common}", **given)

    def test_a_sourced_ros_is_used_instead_of_ours(self) -> None:
        with tempfile.TemporaryDirectory() as prefix:
            found = self.located("", ROS_DISTRO="humble", AMENT_PREFIX_PATH=imagined_ros(prefix))
        self.assertEqual((found["_xvla_own_ros"], found["_xvla_ros"]), ("no", prefix))

    def test_ours_is_not_taken_for_a_sourced_one(self) -> None:
        self.assertEqual(self.located(sourced())["_xvla_own_ros"], "yes")

    def test_a_ros_sourced_after_ours_takes_over(self) -> None:
        with tempfile.TemporaryDirectory() as prefix:
            script = f"{sourced()}export ROS_DISTRO=humble AMENT_PREFIX_PATH={imagined_ros(prefix)}:$AMENT_PREFIX_PATH"
            found = self.located(script)
        self.assertEqual((found["_xvla_own_ros"], found["AMENT_PREFIX_PATH"]), ("no", prefix))

    def test_messages_are_built_apart_for_each_ros(self) -> None:
        with tempfile.TemporaryDirectory() as prefix:
            theirs = self.located("", ROS_DISTRO="humble", AMENT_PREFIX_PATH=imagined_ros(prefix))
        self.assertNotEqual(theirs["_xvla_messages"], self.located("")["_xvla_messages"])

    def test_a_libtorch_that_is_named_is_used_instead_of_ours(self) -> None:
        found = self.located("", LIBTORCH="/opt/libtorch")
        self.assertEqual((found["_xvla_own_libtorch"], found["_xvla_libtorch"]), ("no", "/opt/libtorch"))

    def test_our_libtorch_is_not_taken_for_one_that_is_named(self) -> None:
        self.assertEqual(self.located(sourced())["_xvla_own_libtorch"], "yes")

    def test_libraries_of_engines_that_are_named_are_used_instead_of_ours(self) -> None:
        for name, part in (("XVLA_ONNXRUNTIME_LIB", "_xvla_onnxruntime"), ("XVLA_TENSORRT_LIB", "_xvla_tensorrt")):
            with self.subTest(name=name):
                self.assertEqual(self.located("", **{name: "/opt/lib"})[part], "")
                self.assertIn(part.removeprefix("_xvla_"), self.located(sourced())[part])

    def test_only_engine_libraries_that_have_a_wheel_for_the_machine_are_installed(self) -> None:
        parts = ("_xvla_onnxruntime", "_xvla_tensorrt", "_xvla_onnx")
        for machine, expected in (("x86_64", parts), ("aarch64", parts[:1]), ("riscv64", ())):
            with self.subTest(machine=machine):
                found = self.located(f"uname() {{ echo {machine}; }}")
                self.assertEqual(tuple(part for part in parts if found[part]), expected)

    def test_a_gpu_gets_a_libtorch_of_its_own_with_headers(self) -> None:
        found = self.located("", XVLA_CUDA="1", CUDA_HOME="", CUDA_PATH="")
        part = Path(found["_xvla_libtorch_part"])
        self.assertTrue(part.name.startswith("libtorch-cuda-"), part)
        self.assertEqual(Path(found["_xvla_libtorch"]), part / "torch")
        self.assertEqual(Path(found["_xvla_cuda_headers"]), part / "nvidia/cu13/include")

    def test_without_a_gpu_the_headers_are_a_part_of_their_own(self) -> None:
        found = self.located("", XVLA_CUDA="", CUDA_HOME="", CUDA_PATH="")
        self.assertEqual(found["_xvla_libtorch"], found["_xvla_libtorch_part"])
        self.assertTrue(Path(found["_xvla_cuda_headers"]).name.startswith("cuda-headers-"))

    def test_a_shell_set_up_for_one_libtorch_can_be_set_up_for_the_other(self) -> None:
        for cuda in ("", "1"):
            with self.subTest(XVLA_CUDA=cuda):
                found = self.located(f"{sourced()}export XVLA_CUDA={cuda}")
                self.assertEqual(found["_xvla_libtorch"], self.located("", XVLA_CUDA=cuda)["_xvla_libtorch"])

    def test_a_toolkit_that_is_named_is_used_instead_of_our_headers(self) -> None:
        for name in ("CUDA_HOME", "CUDA_PATH"):
            with self.subTest(name):
                self.assertEqual(self.located("", **{name: "/opt/cuda"})["_xvla_cuda_headers"], "")


class SetupTest(unittest.TestCase):
    def setup(self, **given: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as empty:
            # Nothing is installed: each of these must stop before it would be.
            return subprocess.run(
                [ROOT / "scripts/setup.sh"],
                env={**bare_environment(), "PATH": os.environ["PATH"], "XVLA_ROS_CACHE": empty, **given},
                capture_output=True,
                text=True,
                check=False,
            )

    def test_a_libtorch_folder_without_libtorch_is_named(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            result = self.setup(LIBTORCH=folder)
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"LIBTORCH={folder}", result.stderr)

    def test_a_libtorch_without_cuda_is_refused_for_a_gpu(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "lib").mkdir()
            (Path(folder) / "lib/libtorch_cpu.so").touch()
            result = self.setup(LIBTORCH=folder, XVLA_CUDA="1")
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"LIBTORCH={folder} holds no lib/libtorch_cuda.so", result.stderr)

    def test_a_sourced_ros_that_cannot_build_messages_is_named(self) -> None:
        result = self.setup(ROS_DISTRO="humble", AMENT_PREFIX_PATH="/nowhere")
        self.assertEqual(result.returncode, 1)
        self.assertIn("ros-humble-ros-base", result.stderr)

    @unittest.skipUnless(USES_OURS, SKIPPED)
    def test_what_is_installed_is_not_installed_again(self) -> None:
        result = subprocess.run(
            [ROOT / "scripts/setup.sh"],
            env={**bare_environment(), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(result.stderr, "")


if __name__ == "__main__":
    unittest.main()
