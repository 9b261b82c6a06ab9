"""Formats measured quantities for the HTML pages and for the tables of the README."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from fer_jax.training.intervals import wilson_interval
from fer_jax.training.run_result import RunResult

NOT_MEASURED = "not yet measured"


@dataclass(frozen=True)
class Estimate:
  """An accuracy and its 95 % interval.

  Attributes:
    value: Accuracy in [0, 1].
    interval: Ends of the interval, in [0, 1]; None without one.
    meaning: Description of the interval, such as "Wilson, over 3,589 test images".
  """

  value: float
  interval: tuple[float, float] | None
  meaning: str


def accuracy_estimate(result: RunResult) -> Estimate:
  """Returns the test accuracy of a run with its 95 % interval.

  One replica has the Wilson interval over its test images. Several replicas (seeds or folds) have their mean and the
  interval that the result contains, which is over the replicas. Seeds share a test split, so the images of several
  seeds are not independent and a binomial interval over them would be wrong.

  Args:
    result: Result of the run.
  """
  if result.several:
    interval = None if result.interval_95 is None else (result.interval_95[0], result.interval_95[1])
    meaning = f"mean of {runs_text(len(result.runs), result)}, standard deviation {percent(result.std)}"
    return Estimate(result.accuracy, interval, meaning)
  images = sum(map(sum, result.confusion_matrix))
  if not images:
    return Estimate(result.accuracy, None, "number of test images not stated")
  interval = wilson_interval(round(result.accuracy * images), images)
  return Estimate(result.accuracy, interval, f"Wilson, over {count(images)} test images")


def runs_text(number: int, result: RunResult) -> str:
  """Returns the number of replicas of a run and what they differ in: "10 folds by subjects", "3 seeds".

  Args:
    number: Number of replicas.
    result: Result of the run.
  """
  folds = result.folds
  if folds is None:
    return f"{number} {'seeds' if len(result.seeds) == number else 'runs'}"
  # "3 of 10 folds": a run can train a part of the folds.
  part = f" of {folds.count}" if folds.count > number else ""
  unit = "of one subject each" if folds.by == "one_subject_out" else f"by {folds.by}"
  return f"{number}{part} folds {unit}"


def percent(share: float | None, digits: int = 2) -> str:
  """Formats a share in [0, 1]: 0.7124 is "71.24 %"."""
  return NOT_MEASURED if share is None else f"{100 * share:.{digits}f} %"


def percent_range(low: float, high: float) -> str:
  """Formats an interval of shares, with an en dash: "69.74 \N{EN DASH} 72.70 %"."""
  return f"{100 * low:.2f} \N{EN DASH} {100 * high:.2f} %"


def spread(values: Iterable[float | None], as_percent: bool = False) -> str:
  """Formats the mean and the standard deviation of the values that are not None; the mean alone if they are equal.

  Args:
    values: Whole numbers, or shares in [0, 1].
    as_percent: Whether the values are shares.
  """
  known = [100 * value if as_percent else value for value in values if value is not None]
  if not known:
    return ""
  form, unit = ("{:.2f}", " %") if as_percent else ("{:,.0f}", "")
  mean = form.format(fmean(known))
  return f"{mean}{unit}" if len(set(known)) == 1 else f"{mean} \N{PLUS-MINUS SIGN} {form.format(stdev(known))}{unit}"


def count(number: float | None) -> str:
  """Formats a whole number with separators: "7,000,000"."""
  return NOT_MEASURED if number is None else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
  """Formats a number of seconds: "0.049 s", "42.1 s", "14 min 20 s", "2 h 05 min"."""
  if seconds is None:
    return NOT_MEASURED
  if seconds < 1:
    return f"{seconds:.3g} s"
  # The rounded value is compared: 59.97 s is "1 min 00 s", not "60.0 s".
  if round(seconds, 1) < 60:
    return f"{seconds:.1f} s"
  if round(seconds) < 3600:
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
  minutes = round(seconds / 60)
  return f"{minutes // 60:,} h {minutes % 60:02d} min"


def memory(size: float | None) -> str:
  """Formats a number of bytes in binary units: "1.24 GiB"."""
  if size is None:
    return NOT_MEASURED
  for unit in ("B", "KiB", "MiB"):
    if size < 1024:
      return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
    size /= 1024
  return f"{size:.2f} GiB"


def quantity(name: str, value: object) -> str:
  """Formats the value of a named quantity: accuracies as percentages, other numbers with 4 significant digits."""
  if value is None:
    return NOT_MEASURED
  if isinstance(value, bool) or not isinstance(value, int | float):
    return str(value)
  if "accuracy" in name:
    return percent(value)
  if abs(value) >= 1000 or isinstance(value, int):
    return count(value)
  return f"{value:.4g}"


def metric_name(name: str) -> str:
  """Returns a metric's name for people: "expected_calibration_error" -> "Calibration error"."""
  known = {
    "macro_f1": "Macro F1",
    "cohen_kappa": "Cohen's kappa",
    "expected_calibration_error": "Calibration error",
  }
  return known.get(name, name.replace("_", " ").capitalize())


def device_of(result: RunResult) -> str:
  """Returns the device of a run, and the number of processes if there are several."""
  processes = result.processes or 1
  return result.device + (f", {processes} processes" if processes > 1 else "")


def short_commit(commit: object) -> str:
  """Shortens a commit to its first nine digits and keeps a suffix such as "-dirty"."""
  text = str(commit or "unknown")
  digits = len(text) - len(text.lstrip("0123456789abcdef"))
  return text[:9] + text[digits:] if digits >= 9 else text
