"""Every family as a scikit-learn estimator: its name is a parameter, and its options are plain keywords.

    from likeli.estimator import Density

    density = Density("gmm", components=5, random_state=0).fit(X)
    density.score_samples(X), density.knows_, density.sample(10)

They go where scikit-learn's own go: `Pipeline`, `GridSearchCV`, `cross_val_score`, `clone`, data frames, sparse matrices.  A
family's options, the training settings of `likeli.fit`, and with a prefix those of the family alone (`model__steps`) or of
scoring (`score__samples`) are all reached by `set_params`; `get_params()` lists them.
"""

from likeli.estimator.classifier import Classifier
from likeli.estimator.densities import Density
from likeli.estimator.imputer import Imputer
from likeli.estimator.latents import Embedding
from likeli.estimator.outlier import Outlier

__all__ = ["Classifier", "Density", "Embedding", "Imputer", "Outlier"]
