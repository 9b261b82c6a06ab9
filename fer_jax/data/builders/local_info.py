"""TFDS dataset information without network access."""

import tensorflow_datasets as tfds


class LocalInfo(tfds.core.DatasetInfo):
  """Dataset information for a dataset that is not published in the TFDS bucket.

  For every dataset that is not prepared, TFDS queries its public bucket and leaves an empty temporary folder each time.
  The datasets of this package are never in that bucket.
  """

  def initialize_from_bucket(self) -> None:
    """Does nothing; TFDS would query its public bucket here."""
