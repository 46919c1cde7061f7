"""Whole runs of the protocol on simulated particles.

The particles are made by ``cryorefine simulate``; nothing is downloaded, and no window is opened.
"""

import os
import shlex
import subprocess

import numpy as np
from pwem.objects import (
    Acquisition,
    Coordinate,
    CTFModel,
    Particle,
    SetOfParticles,
    VolumeMask,
)
from pwem.protocols import ProtImportParticles, ProtImportVolumes, ProtSetFilter
from pyworkflow.tests import BaseTest, setupTestProject

from scipion_cryorefine import Plugin, run_folder
from scipion_cryorefine.convert import angles_and_shift, matrix_of
from scipion_cryorefine.parameters import AUTOMATIC, LOCAL, NO_ALIGNMENT
from scipion_cryorefine.protocols import ProtCryorefine
from scipion_cryorefine.star import read_blocks
from scipion_cryorefine.viewers import CryorefineViewer, ReportView

N_PARTICLES = 64
BOX_PX = 32
PIXEL_A = 5.4


def simulate(folder):
    """Make a small set of images of a phantom."""
    words = [
        "simulate", "phantom", "--output", folder, "--particles", N_PARTICLES, "--box-px", BOX_PX,
        "--pixel-angstrom", PIXEL_A, "--symmetry", "d2", "--snr", 0.3, "--per-micrograph", 8,
    ]  # fmt: skip
    arguments = " ".join(shlex.quote(str(word)) for word in words)
    command = f"{Plugin.getProgram()} {arguments}"
    subprocess.run(command, shell=True, check=True, env=dict(Plugin.getEnviron()))


def set_of(folder, path):
    """Write the images as a set of Scipion, with CTF and micrograph."""
    with open(os.path.join(folder, "particles.star")) as file:
        rows = list(read_blocks(file)["particles"].records())
    images = SetOfParticles(filename=path)
    images.setSamplingRate(PIXEL_A)
    images.setHasCTF(True)
    images.setAcquisition(
        Acquisition(voltage=300, sphericalAberration=2.7, amplitudeContrast=0.1, magnification=1)
    )
    for row in rows:
        index, name = row["rlnImageName"].split("@")
        item = Particle()
        item.setLocation(int(index), os.path.join(folder, name))
        item.setSamplingRate(PIXEL_A)
        item.setAcquisition(images.getAcquisition())
        ctf = CTFModel()
        ctf.setStandardDefocus(*(float(row[f"rlnDefocus{name}"]) for name in ("U", "V", "Angle")))
        item.setCTF(ctf)
        coordinate = Coordinate(x=10 * int(index), y=20)
        coordinate.setMicName(row["rlnMicrographName"])
        item.setCoordinate(coordinate)
        images.append(item)
    images.write()
    images.close()


class TestRefine(BaseTest):
    """One import, and runs that go on from one another; tests run in the order of their names."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.data = os.path.abspath("simulated")
        simulate(cls.data)
        path = os.path.abspath("simulated.sqlite")
        set_of(cls.data, path)
        imported = cls.newProtocol(
            ProtImportParticles,
            importFrom=ProtImportParticles.IMPORT_FROM_SCIPION,
            sqliteFile=path,
            haveDataBeenPhaseFlipped=False,
            samplingRate=PIXEL_A,
            voltage=300,
            sphericalAberration=2.7,
            amplitudeContrast=0.1,
        )
        cls.particles = cls.launchProtocol(imported).outputParticles
        imported = cls.newProtocol(
            ProtImportVolumes,
            filesPath=os.path.join(cls.data, "reference.mrc"),
            samplingRate=PIXEL_A,
        )
        cls.volume = cls.launchProtocol(imported).outputVolume
        run = cls.newProtocol(
            ProtCryorefine,
            objLabel="automatic",
            inputParticles=cls.particles,
            inputVolumes=cls.volume,
            symmetryGroup="d2",
            numberOfIterations=2,
            numberOfThreads=2,
        )
        cls.automatic = cls.launchProtocol(run)

    def _run(self, **values):
        values = {"symmetryGroup": "d2", "numberOfThreads": 2, **values}
        return self.newProtocol(ProtCryorefine, **values)

    def _true_poses(self):
        with open(os.path.join(self.data, "truth_particles.star")) as file:
            rows = read_blocks(file)["particles"].records()
            names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
            shifts = ("rlnOriginXAngst", "rlnOriginYAngst")
            return {
                int(row["rlnImageName"].split("@")[0]): (
                    [float(row[n]) for n in names],
                    [float(row[n]) / PIXEL_A for n in shifts],
                )
                for row in rows
            }

    def test_automatic_run_has_map_halves_particles_and_fsc(self):
        run = self.automatic
        volume = run.outputVolume
        self.assertTrue(os.path.exists(volume.getFileName()))
        self.assertEqual(volume.getSamplingRate(), PIXEL_A)
        self.assertEqual(volume.getDim(), (BOX_PX,) * 3)
        halves = volume.getHalfMaps(asList=True)
        self.assertEqual(len(halves), 2)
        self.assertTrue(all(os.path.exists(path) for path in halves))
        self.assertSetSize(run.outputParticles, N_PARTICLES)
        self.assertTrue(run.outputParticles.hasAlignmentProj())
        x, y = (list(map(float, values)) for values in run.outputFSC.getData())
        self.assertEqual(len(x), BOX_PX // 2 + 1)
        self.assertGreater(y[1], 0.9)
        reported = run_folder.summary(run._runPath())["resolution_A"]
        self.assertLess(reported, 25)

    def test_poses_of_the_output_are_those_of_the_images(self):
        truth = self._true_poses()
        # The four copies of a view in D2: turns by 180 degrees about the axes.
        copies = [np.diag(d) for d in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]
        angles, shifts = [], []
        for item in self.automatic.outputParticles:
            matrix = item.getTransform().getMatrix()
            true = matrix_of(*truth[item.getIndex()])
            turns = [matrix[:3, :3].T @ c @ true[:3, :3] for c in copies]
            cosine = max((np.trace(turn) - 1) / 2 for turn in turns)
            angles.append(np.degrees(np.arccos(min(1.0, cosine))))
            found, given = angles_and_shift(matrix)[1], truth[item.getIndex()][1]
            shifts.append(np.hypot(*np.subtract(found, given)))
        # Random poses are 60 degrees off on average, and shifts are 0.8 px along both axes.
        self.assertLess(np.median(angles), 6)
        self.assertLess(np.median(shifts), 0.5)

    def test_quality_columns_are_attributes(self):
        with open(self.automatic._runPath("particles.star")) as file:
            block = read_blocks(file)["particles"]
        columns = [name for name in block.columns if name.startswith("cryorefine")]
        self.assertGreater(len(columns), 40)
        rows = {int(row["rlnImageId"]): row for row in block.records()}
        for item in self.automatic.outputParticles:
            row = rows[item.getObjId()]
            for name in columns:
                self.assertAlmostEqual(
                    getattr(item, "_" + name).get(), float(row[name]), places=5, msg=name
                )
            self.assertEqual(item._xmipp_maxCCPerc.get(), float(row["cryorefineMaxCCPercentile"]))
            for name in ("maxCC", "cost", "costPerc", "weight", "angleDiff", "shiftX", "corrIdx"):
                self.assertTrue(item.hasAttribute(f"_xmipp_{name}"), name)

    def test_summary_methods_and_viewer_show_the_run(self):
        text = "\n".join(self.automatic.summary())
        self.assertIn("Iterations: 2", text)
        self.assertIn(f"{N_PARTICLES} of {N_PARTICLES}", text)
        self.assertIn("cryorefine", "\n".join(self.automatic.methods()))
        viewer = CryorefineViewer(project=self.proj, protocol=self.automatic)
        (view,) = viewer._visualize(self.automatic)
        self.assertIsInstance(view, ReportView)
        self.assertTrue(os.path.exists(view.address.replace("file://", "")))

    def test_continued_run_goes_on_and_leaves_the_run_as_it_is(self):
        before = run_folder.summary(self.automatic._runPath())
        run = self._run(
            objLabel="continued", doContinue=True, continueRun=self.automatic,
            alignmentMethod=LOCAL, numberOfIterations=1, keepAbovePercentile=25,
        )  # fmt: skip
        self.assertEqual(run.validate(), [])
        warnings = "\n".join(run._warnings())
        self.assertIn("alignment of the continued run was automatic, and will be local", warnings)
        self.assertNotIn("symmetry", warnings)
        self.launchProtocol(run)
        self.assertEqual(run_folder.summary(self.automatic._runPath()), before)
        after = run_folder.summary(run._runPath())
        self.assertEqual(after["iterations"], 3)
        self.assertLess(len(run.outputParticles), 0.85 * N_PARTICLES)
        self.assertEqual(after["n_used"], len(run.outputParticles))

    def test_local_run_starts_from_the_poses_of_the_set(self):
        run = self._run(
            objLabel="local", inputParticles=self.automatic.outputParticles,
            alignmentMethod=LOCAL, numberOfIterations=1,
        )  # fmt: skip
        self.launchProtocol(run)
        turned = run_folder.summary(run._runPath())["median_turn_deg"]
        # Wrong signs or axes would give poses that the images do not hold.
        self.assertLess(turned, 3)
        before = {
            p.getObjId(): p.getTransform().getMatrix() for p in self.automatic.outputParticles
        }
        cosines = [
            np.sum(item.getTransform().getMatrix()[:3, 2] * before[item.getObjId()][:3, 2])
            for item in run.outputParticles
        ]
        self.assertGreater(np.median(cosines), np.cos(np.radians(3)))

    def test_subset_by_percentile_is_refined_again(self):
        filtered = self.newProtocol(
            ProtSetFilter,
            objLabel="best three quarters",
            formula="item._xmipp_maxCCPerc.get() > 0.25",
        )
        # The filter names its output as the pointer does that it was given.
        filtered.inputSet.set(self.automatic)
        filtered.inputSet.setExtended("outputParticles")
        self.launchProtocol(filtered)
        subset = filtered.outputParticles
        self.assertGreater(len(subset), 0.6 * N_PARTICLES)
        self.assertLess(len(subset), 0.9 * N_PARTICLES)
        run = self._run(
            objLabel="subset", inputParticles=subset, inputVolumes=self.automatic.outputVolume,
            alignmentMethod=AUTOMATIC, numberOfIterations=1, weightCC=True,
        )  # fmt: skip
        self.launchProtocol(run)
        self.assertSetSize(run.outputParticles, len(subset))
        halves = {p.getObjId(): p._rlnRandomSubset.get() for p in self.automatic.outputParticles}
        for item in run.outputParticles:
            self.assertEqual(item._rlnRandomSubset.get(), halves[item.getObjId()])
        weights = [item._xmipp_weight.get() for item in run.outputParticles]
        self.assertGreater(max(weights), 1.5 * min(weights))

    def test_form_says_what_is_wrong_before_anything_runs(self):
        cases = [
            ({}, "Choose particles"),
            ({"inputParticles": self.particles}, "Choose an initial volume"),
            (
                {"inputParticles": self.particles, "alignmentMethod": NO_ALIGNMENT},
                "the particles have none",
            ),
            ({"doContinue": True}, "Choose the previous run"),
            (
                {
                    "inputParticles": self.particles,
                    "inputVolumes": self.volume,
                    "symmetryGroup": "c3v",
                },
                "has a mirror",
            ),
        ]
        for values, words in cases:
            said = "\n".join(self._run(**values)._validate())
            self.assertIn(words, said)

    def test_what_cryorefine_refuses_is_said_in_its_own_words(self):
        run = self._run(
            objLabel="refused", inputParticles=self.particles, inputVolumes=self.volume,
            symmetryGroup="q7",
        )  # fmt: skip
        self.proj.launchProtocol(run, wait=True)
        self.assertTrue(run.isFailed())
        self.assertIn("cryorefine: ", run.getErrorMessage())
        self.assertIn("q7", run.getErrorMessage())

    def test_mask_and_volume_reach_the_command_line(self):
        mask = VolumeMask(location=os.path.join(self.data, "truth_map.mrc"))
        mask.setSamplingRate(PIXEL_A)
        run = self._run(inputParticles=self.particles, inputVolumes=self.volume)
        run.inputMask.set(mask)
        words = run._words()
        self.assertEqual(words[words.index("--mask") + 1], mask.getFileName())
        self.assertEqual(words[words.index("--mask-voxel-angstrom") + 1], f"{PIXEL_A:g}")
        self.assertEqual(words[words.index("--reference-voxel-angstrom") + 1], f"{PIXEL_A:g}")
        self.assertEqual(words[words.index("--symmetry") + 1], "d2")

    def test_installer_makes_the_environment_that_is_activated(self):
        class Installer:
            def addPackage(self, name, **attributes):
                self.commands = attributes["commands"]

        installer = Installer()
        Plugin.defineBinaries(installer)
        ((command, flag),) = installer.commands
        self.assertIn(Plugin.getVar("CRYOREFINE_ENV_ACTIVATION"), command)
        self.assertTrue(command.endswith(f"touch {flag}"))
