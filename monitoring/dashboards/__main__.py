"""Write the dashboards to monitoring/grafana-dashboards: python -m monitoring.dashboards."""

from monitoring.dashboards import FOLDER, rendered

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    wanted = dict(rendered())
    for stale in set(FOLDER.glob("*.json")) - wanted.keys():
        stale.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
