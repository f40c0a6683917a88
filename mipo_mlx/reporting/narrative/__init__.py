"""All sentences of a report, made of rows and findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mipo_mlx.reporting.narrative import judge, memorization, studies
from mipo_mlx.results import Json, MetricRow, Section
from mipo_mlx.results.findings import (
    BenchmarkFindings,
    ControlFindings,
    DiversityFindings,
    Findings,
    JudgeFindings,
    MemorizationFindings,
    RetentionFindings,
)


def _told(findings: Findings, metrics: Mapping[str, MetricRow]) -> Section:
    match findings:
        case ControlFindings():
            return studies.controls(findings)
        case RetentionFindings():
            return studies.retention(findings, metrics)
        case DiversityFindings():
            return studies.diversity(findings, metrics)
        case BenchmarkFindings():
            return studies.benchmarks(findings, metrics)
        case JudgeFindings():
            return judge.section(findings)
        case MemorizationFindings():
            return memorization.section(findings)


def section(findings: Findings, metrics: Mapping[str, MetricRow], details: Json) -> Section:
    """A study in words and tables, with the names of its rows and its details."""
    return replace(_told(findings, metrics), metrics=list(metrics), details=details)
