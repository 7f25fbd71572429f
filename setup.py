"""Package mapping only: the five library folders install as ``opbyte.<folder>``."""

from setuptools import find_packages, setup

FOLDERS = ["simulator", "devices", "kernels", "workloads", "analysis"]
packages = ["opbyte", "opbyte.extend"]
for folder in FOLDERS:
    packages += [f"opbyte.{folder}", *(f"opbyte.{folder}.{sub}" for sub in find_packages(folder))]
setup(
    packages=packages,
    package_dir={"opbyte": "src/opbyte", **{f"opbyte.{f}": f for f in FOLDERS}},
    package_data={
        "opbyte": ["py.typed"],
        "opbyte.analysis.answers": ["*.yaml", "*.csv"],
        "opbyte.analysis.commands": ["*.yaml"],
        "opbyte.analysis.plots": ["*.yaml"],
        "opbyte.analysis.reference": ["templates/*"],
        "opbyte.analysis.report": ["templates/*.j2", "templates/*.js", "vendor/*"],
        "opbyte.analysis.papers": ["values/*.yaml"],
        "opbyte.analysis.studies": ["results.yaml"],
        "opbyte.analysis.studies.benchmark": ["results.yaml"],
        "opbyte.analysis.studies.design": ["results.yaml", "spaces/*.yaml"],
        "opbyte.analysis.studies.sweep": ["results.yaml"],
        "opbyte.analysis.validate": ["pages/*.md", "runs/*.csv"],
        "opbyte.devices": [
            "calibrated/*.csv",
            "specs/*.yaml",
            "specs/calibrated/*.yaml",
            "specs/evidence/*.csv",
            "specs/hosts/*.yaml",
            "specs/kernels/*.yaml",
            "specs/layer_kernels/*.yaml",
            "specs/systems/*.yaml",
        ],
        "opbyte.devices.collectives": ["deepep.csv"],
        "opbyte.devices.power": ["*.yaml"],
        "opbyte.devices.silicon": ["*.yaml"],
        "opbyte.devices.tiles": ["*.yaml"],
        "opbyte.devices.dram": ["specs/*.yaml", "derived.csv"],
        "opbyte.kernels": ["cuda/*.cu", "cuda/*.cuh", "measured/*"],
        "opbyte.simulator": ["*.yaml", "frameworks/*.csv", "frameworks/*.yaml", "scenario/*.pyi", "scenario/*.yaml"],
        "opbyte.workloads": ["*.csv", "*.yaml", "models/*.yaml", "hf/*.csv", "hf/*.yaml"],
    },
    include_package_data=False,
)
