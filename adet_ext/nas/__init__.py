"""The search core: it looks for an architecture in a space of tokens, and knows no model, no data set and no project.

A project gives a :class:`~adet_ext.nas.space.Space` and a function that evaluates one of its token lists. The core
asks a sampler for token lists, has them evaluated, tells the sampler the rewards and journals what was found.

=====================  ==============================================================================================
``space``              categorical decisions; encode, decode, check, canonical form, JSON
``blocks``             spaces of blocks with two inputs: their decisions and their canonical order
``samplers``           the ask / tell protocol and :func:`~adet_ext.nas.samplers.build_sampler`
``controller``         a two-layer LSTM policy trained by PPO
``evolution``          regularised evolution, the baseline that learns
``genetic``            evolution in generations, by mutation and crossover
``path_priority``      fair paths, and points for the choices of good ones
``fair_paths``         paths with every choice equally often
``random_search``      uniform draws, the baseline that does not
``reward``             moving baseline, geometric mean
``early_stopping``     thresholds below which a candidate is not trained further
``proxies``            small things that proxy tasks have in common
``feature_cache``      what a frozen backbone gives for a data set, computed once
``fingerprint``        what a cache depends on: weights, images, settings
``evaluation``         task, outcome, and one evaluation with its cost; what a project's factory is
``evaluators``         who evaluates: this process, :mod:`.pool` (worker processes) or :mod:`.ray_cluster`
``journal``            JSON lines, safe against a kill at any byte; read by :func:`~adet_ext.nas.journal.read_journal`
``search``             rounds: ask, evaluate, journal, tell; the same journal whatever evaluates
``driver``             the arguments that the projects' ``search_net.py`` have in common
``ranks``              how well one reward ranks architectures beside another
``summary``            what a journal says, as numbers and as text
=====================  ==============================================================================================

Import each name from its module: nothing is imported here, so that a worker loads no more than it uses.
"""
