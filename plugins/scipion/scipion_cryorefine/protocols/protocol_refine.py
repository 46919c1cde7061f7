"""The protocol: a form, a run of cryorefine in its own environment, and its results as objects."""

import shlex
from enum import Enum
from subprocess import CalledProcessError

from pwem.objects import FSC, SetOfParticles, SetOfVolumes, Volume
from pwem.protocols import ProtRefine3D
from pyworkflow import PROD
from pyworkflow.protocol import params
from pyworkflow.protocol.constants import LEVEL_ADVANCED, LEVEL_NORMAL
from pyworkflow.utils import cleanPath

from scipion_cryorefine import Plugin, run_folder
from scipion_cryorefine.checks import Inputs, problems
from scipion_cryorefine.command_line import (
    changed_settings,
    option,
    refine_options,
    resume_options,
    settings_of,
)
from scipion_cryorefine.convert import Results, as_mrc, set_result, write_particles
from scipion_cryorefine.parameters import SECTIONS, all_parameters

EXIT_RESUMABLE = 3
"""What cryorefine exits with where it was stopped early and can go on."""


class Outputs(Enum):
    """What a run gives."""

    outputVolume = Volume
    outputParticles = SetOfParticles
    outputFSC = FSC


class ProtCryorefine(ProtRefine3D):
    """Refine particles to the highest resolution that they hold.

    Two half sets are refined apart from each other by maximum likelihood. Search, schedule, box,
    resolution and end of the run follow from the data, unless the form says otherwise. Parameters
    have the names of Xmipp's HighRes where they mean the same.
    """

    _label = "refine"
    _devStatus = PROD
    _possibleOutputs = Outputs

    # ------------------------------------------------------------------ form

    def _defineParams(self, form):
        form.addSection(label="Input")
        form.addHidden(
            params.USE_GPU, params.BooleanParam, default=True, label="Use GPU for execution",
            help="Without a GPU in the machine, Yes computes on the CPU.",
        )  # fmt: skip
        form.addHidden(
            params.GPU_LIST, params.StringParam, default="0", label="GPU",
            help="A run uses one GPU: the first of the list.",
        )  # fmt: skip
        form.addParam(
            "doContinue", params.BooleanParam, default=False, label="Continue from a previous run?",
            help="Go on with a copy of the run; the run stays as it is. The form holds as it is "
            "shown: what it changes of the run is said before it starts.",
        )  # fmt: skip
        form.addParam(
            "continueRun", params.PointerParam, pointerClass=type(self).__name__, allowsNull=True,
            condition="doContinue", label="Select previous run",
        )  # fmt: skip
        form.addParam(
            "inputParticles", params.PointerParam, pointerClass="SetOfParticles", allowsNull=True,
            important=True, label="Full-size Images",
            help="At the finest sampling rate. In a continued run they may be left out: those of "
            "the run are used. Other particles keep half set and pose if the run knows them.",
        )  # fmt: skip
        form.addParam(
            "keepAbovePercentile", params.FloatParam, allowsNull=True, condition="doContinue",
            label="Leave out the worst (%)",
            help="Leave out so many percent of the particles from now on: the worst of each group "
            "of like defocus. 0 brings all back; empty: as the run has it.",
        )  # fmt: skip
        for number, (title, parameters) in enumerate(SECTIONS.items()):
            if number:
                form.addSection(label=title)
            for parameter in parameters:
                self._addParameter(form, parameter)
        form.addParallelSection(threads=4, mpi=0)
        # Scipion looks up what a condition names when a parameter is added; what comes later in the
        # form (image alignment) is found now.
        for parameter in all_parameters():
            form.registerParam(parameter.name, form.getParam(parameter.name))

    @staticmethod
    def _addParameter(form, parameter):
        """Add what a row of the map says."""
        kinds = {
            "flag": params.BooleanParam, "integer": params.IntParam, "number": params.FloatParam,
            "text": params.StringParam, "choice": params.EnumParam,
        }  # fmt: skip
        pointers = {
            "volume": "Volume", "volumes": "Volume, SetOfVolumes", "mask": "VolumeMask, Volume",
        }  # fmt: skip
        attributes = {
            "label": parameter.label,
            "help": parameter.help,
            "expertLevel": LEVEL_ADVANCED if parameter.advanced else LEVEL_NORMAL,
        }
        if parameter.when:
            attributes["condition"] = " and ".join(
                "(" + " or ".join(f"{name}=={value!r}" for value in values) + ")"
                for name, values in parameter.when
            )
        if parameter.kind in pointers:
            attributes.update(pointerClass=pointers[parameter.kind], allowsNull=True)
        else:
            attributes["default"] = parameter.default
            attributes["allowsNull"] = parameter.default is None
        if parameter.kind == "text" and parameter.default is None:
            attributes["default"] = ""
        if parameter.kind == "choice":
            attributes["choices"] = list(parameter.choices)
        form.addParam(parameter.name, kinds.get(parameter.kind, params.PointerParam), **attributes)

    # ------------------------------------------------------------------ steps

    def _insertAllSteps(self):
        self._insertFunctionStep(self.convertInputStep, needsGPU=False)
        self._insertFunctionStep(self.refineStep)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    def convertInputStep(self):
        """Write the particles, where the form has any."""
        if self.inputParticles.get() is not None:
            write_particles(self.inputParticles.get(), self._starPath())

    def refineStep(self):
        """Run cryorefine, or go on with a run that this protocol has begun."""
        arguments = " ".join(shlex.quote(word) for word in self._words())
        environ = Plugin.getEnviron()
        if self.useGpu.get():
            environ["CUDA_VISIBLE_DEVICES"] = self.gpuList.get().replace(" ", ",").split(",")[0]
        try:
            self.runJob(Plugin.getProgram(), arguments, env=environ, numberOfMpi=1)
        except CalledProcessError as error:
            said = run_folder.complaint(self.getStderrLog()) or str(error)
            if error.returncode == EXIT_RESUMABLE:
                said += " The run was stopped early: continue this protocol, and it goes on."
            raise Exception(said) from None

    def createOutputStep(self):
        """Register map, particles and FSC."""
        found = run_folder.summary(self._runPath())
        volume = Volume()
        volume.setFileName(self._runPath("map.mrc"))
        volume.setSamplingRate(found["voxel_A"])
        volume.setHalfMaps([self._runPath("half1.mrc"), self._runPath("half2.mrc")])

        images = self._particles()
        results = Results(self._runPath("particles.star"))
        pixel_A = images.getSamplingRate()

        def update(item, _):
            values = results.of(item.getObjId())
            item._appendItem = bool(values)
            if values:
                set_result(item, values, pixel_A)

        particles = self._createSetOfParticles()
        particles.copyInfo(images)
        particles.setAlignmentProj()
        particles.copyItems(images, updateItemCallback=update)

        fsc = FSC(objLabel="corrected for the mask")
        fsc.setData(*run_folder.fsc_curve(self._runPath()))

        names = (Outputs.outputVolume, Outputs.outputParticles, Outputs.outputFSC)
        self._defineOutputs(**{n.name: v for n, v in zip(names, (volume, particles, fsc))})
        source = self.inputParticles if self.inputParticles.get() else self.continueRun
        self._defineSourceRelation(source, volume)
        self._defineSourceRelation(source, fsc)
        if self.inputParticles.get() is not None:
            self._defineTransformRelation(self.inputParticles, particles)
        else:
            self._defineSourceRelation(source, particles)

    # ------------------------------------------------------------------ from form to command line

    def _starPath(self):
        return self._getExtraPath("input_particles.star")

    def _runPath(self, *names):
        return self._getExtraPath("run", *names)

    def getReportPath(self):
        """Return the path of the page that shows the run, which is renewed while it runs."""
        return self._runPath("report.html")

    def _previous(self):
        return self.continueRun.get() if self.doContinue.get() else None

    def _particles(self):
        """Return the particles of the form, or else those of the run that is continued."""
        own, previous = self.inputParticles.get(), self._previous()
        return own if own is not None or previous is None else previous._particles()

    def _volumes(self):
        """Return the initial volumes; two of them for the half sets."""
        given = self.inputVolumes.get()
        if isinstance(given, SetOfVolumes):
            return [volume.clone() for volume in given]
        return [] if given is None else [given]

    def _objects(self):
        """Return the volumes and masks that the form points at, by the name of the parameter."""
        kinds = {"volume", "mask"}
        found = {p.name: getattr(self, p.name).get() for p in all_parameters() if p.kind in kinds}
        return {name: volume for name, volume in found.items() if volume is not None}

    def _values(self):
        """Return the form by name: volumes and masks are the paths of their files."""
        values = {"doContinue": self.doContinue.get()}
        for parameter in all_parameters():
            if parameter.kind not in ("volume", "volumes", "mask"):
                values[parameter.name] = getattr(self, parameter.name).get()
        values["keepAbovePercentile"] = self.keepAbovePercentile.get()
        values.update({name: volume.getFileName() for name, volume in self._objects().items()})
        # Volumes of one stack have one file: the index tells them apart.
        values["inputVolumes"] = tuple(self._named(volume) for volume in self._volumes())
        return {**{p.name: None for p in all_parameters()}, **values}

    @staticmethod
    def _named(volume):
        index, name = volume.getLocation()
        return f"{index}@{name}" if index else name

    def _settings(self):
        """Return all settings of cryorefine that follow from the form and its objects."""
        settings = settings_of(self._values())
        images = self._particles()
        if images is not None and images.isPhaseFlipped():
            settings["phase_flipped"] = True
        if "reference" in settings:
            settings["reference_voxel_angstrom"] = f"{self._volumes()[0].getSamplingRate():.8g}"
        rates = self._maskRates()
        if len(rates) == 1:
            settings["mask_voxel_angstrom"] = rates.pop()
        settings["threads"] = str(self.numberOfThreads.get())
        if not self.useGpu.get():
            settings["device"] = "cpu"
        return settings

    def _maskRates(self):
        """Return the different sampling rates of the masks that are used."""
        settings = settings_of(self._values())
        rates = set()
        for parameter in all_parameters():
            # The mask of a symmetry is read as its header says.
            is_used = parameter.setting in settings and parameter.setting != "post_symmetry_mask"
            if parameter.kind == "mask" and is_used:
                rates.add(f"{self._objects()[parameter.name].getSamplingRate():.8g}")
        return rates

    def _copies(self):
        """Return the MRC file of each volume and mask by the name that the settings have for it."""
        volumes = [*self._volumes(), *self._objects().values()]
        folder = self._getExtraPath()
        copies = {self._named(volume): as_mrc(volume, folder) for volume in volumes}
        copies.update({v.getFileName(): as_mrc(v, folder) for v in self._objects().values()})
        return copies

    def _words(self):
        """Return the words of the command line of cryorefine."""
        run, settings, previous = self._runPath(), self._settings(), self._previous()
        has_command = {"reference_command", "post_command"} & set(settings)
        allow = ["--allow-commands"] if has_command else []
        already = run_folder.n_segments(previous._runPath()) if previous is not None else 0
        if run_folder.is_begun(run) and run_folder.n_segments(run) > already:
            return ["resume", run, *allow]
        cleanPath(run)
        if previous is None:
            words = ["refine", self._starPath(), "--output", run, *refine_options(settings)]
        else:
            words = ["resume", previous._runPath(), "--output", run, *allow]
            words += resume_options(settings, previous._settings())
            if self.inputParticles.get() is not None:
                words += ["--particles", self._starPath()]
            if self.keepAbovePercentile.get() is not None:
                words += option("keep_above_percentile", f"{self.keepAbovePercentile.get():g}")
        copies = self._copies()
        return [copies.get(word, word) for word in words]

    # ------------------------------------------------------------------ what is said

    def _given(self):
        images, previous = self._particles(), self._previous()
        return Inputs(
            has_particles=images is not None,
            has_poses=images is not None and images.hasAlignmentProj(),
            has_ctf=images is not None and images.hasCTF(),
            is_amplitude_corrected=images is not None and images.isAmplitudeCorrected(),
            n_volumes=len(self._volumes()),
            has_run=previous is not None,
            run_is_begun=previous is not None and run_folder.is_begun(previous._runPath()),
        )

    def _validate(self):
        return problems(self._values(), self._given())

    def _warnings(self):
        warnings = []
        images, previous = self._particles(), self._previous()
        if images is not None and images.isAmplitudeCorrected():
            warnings.append(
                "The particles are corrected for the amplitudes of their CTF, and would be "
                "corrected again. Use particles that are not."
            )
        if len(self._maskRates()) > 1:
            warnings.append(
                "Masks have different sampling rates: each is read as the header of its file says."
            )
        if previous is not None:
            for name, values in changed_settings(self._settings(), previous._settings()).items():
                old, new = ("the default" if value is None else value for value in values)
                warnings.append(f"{name} of the continued run was {old}, and will be {new}.")
        return warnings

    def _summary(self):
        return run_folder.summary_lines(self._runPath())

    def _methods(self):
        return run_folder.methods(self._runPath())

    def _citations(self):
        return ["Sorzano2018"]
