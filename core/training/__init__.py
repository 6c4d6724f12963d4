"""Training from scratch, evaluation, and weights that the service can load. Knows no jobs and no web.

====================  =======================================================================
``config.py``         what a run is: one YAML file, checked
``sources.py``        where pictures come from: Oxford-IIIT Pet, folders, archives, generated
``duplicates.py``     which of them are the same picture
``data.py``           what is in a source, and its split into train, validation and test
``store.py``          pictures decoded once, as bytes that batches are cut from
``normalisation.py``  mean and spread of the training pictures
``augment.py``        a whole batch varied at random
``seeds.py``          randomness as a function of the position in the run
``grow.py``           a deeper network that computes the same
``optimise.py``       optimiser, learning rate, precision, average of the weights
``state.py``          everything a run needs to go on after it was killed
``journal.py``        what it has measured so far
``loop.py``           stages, epochs, steps, validation
``train.py``          the program: ``pawlens train``
``progress.py``       what a person sees meanwhile
``export.py``         weights and manifest for the service
``metrics.py``        how good, and how sure that is
``calibration.py``    scores that can be taken as probabilities
``evaluate.py``       a manifest measured on data
``plots.py``          its pictures
``report.py``         one HTML file of all
====================  =======================================================================
"""
