"""One MLflow store copied into another: experiments, runs, logged models, registry, once each.

A copy carries the original's id in its tag `synced_from` from the moment it is made, and a digest
of what was copied in `synced_state` as its last write. So whoever comes next, after a kill or a
week, finds every copy again and sees what is missing or has changed. Ids are MLflow's random ones,
so two source stores do not collide; a copy of a copy keeps the first original's mark, so stores may
be copied in a ring. Own code, because mlflow-export-import 1.2.0, the last one released, knows no
logged models and makes every run anew each time it is asked.

Left out: deleted runs and models; traces, prompts, evaluation data sets and webhooks, of which this
project makes none; what is deleted in the source after it was copied stays in the target.
"""
