from genobird.checkpoint import Checkpoint as Checkpoint
from genobird.errors import GenobirdError as GenobirdError
from genobird.genome.fasta import Genome as Genome
from genobird.genome.interval import Interval as Interval
from genobird.genome.variant import Variant as Variant
from genobird.scoring.scorer import Scorer as Scorer
from genobird.scoring.scorer import load as load
from genobird.scoring.settings import EffectSettings as EffectSettings
from genobird.scoring.variant_table import tidy_scores as tidy_scores
from genobird.scoring.variant_table import to_anndata as to_anndata
from genobird.tasks.evaluate import evaluate as evaluate
from genobird.tasks.training import finetune as finetune
from genobird.tasks.training import pretrain as pretrain
from genobird.tokenizer import Tokenizer as Tokenizer

__version__: str
__all__: list[str]
