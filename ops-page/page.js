// Polls the public status of NGINX and the services, and displays it. Panels are independent: one whose component does
// not respond shows that, and the others still update. All fetched values are inserted as text, never as markup.
"use strict";

const INTERVAL_SECONDS = 5;
const TIMEOUT_SECONDS = 4;

const PHASES = {
  idle: "No rollout in progress",
  provisioning: "Starting canaries",
  canary: "Canary receiving traffic",
  promoting: "Promoting: replacing stable replicas",
  done: "Promoted; the previous version keeps running",
  "rolling-back": "Rolling back",
};
const REASONS = {
  "above-target": "load per replica above the target",
  "below-target": "load per replica below the target",
  "on-target": "within tolerance",
  "at-minimum": "at the minimum",
  "at-maximum": "at the maximum",
  "below-minimum": "below the minimum",
  "above-maximum": "above the maximum",
  "rate-limited": "limited by the scaling policy",
  panic: "far above target: adding at once, removing nothing",
  stabilized: "waiting for the stabilization window",
  updating: "waiting for an update to finish",
  stopped: "scaled to zero manually",
  "metric-missing": "metric missing, not scaling down",
  errors: "error rate higher than stable",
  latency: "latency higher than stable",
  "latency-ceiling": "latency above the maximum",
  holds: "held money differs from the active holds",
  history: "events without their entry in the history",
  "no-response": "canary does not respond",
  contract: "responses differ from the contract",
  "no-data": "no metrics available",
  "not-enough-samples": "not enough requests yet",
  baking: "minimum duration not reached",
  healthy: "no regression found",
};

function reasonText(reason) {
  return REASONS[reason] || reason.replaceAll("-", " ");
}

// make("p.quiet", "text", child, …)
function make(kind, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  element.append(...children.filter((child) => child !== null));
  return element;
}

function definitionList(...pairs) {
  const list = make("dl");
  for (const [name, value] of pairs) {
    if (value !== null) list.append(make("dt", name), make("dd", value));
  }
  return list;
}

function timestamp(seconds) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const day = today ? "" : `${date.toLocaleDateString(undefined, { day: "numeric", month: "short" })} `;
  const element = make("time", day + date.toLocaleTimeString());
  element.dateTime = date.toISOString();
  return element;
}

function events(title, lines) {
  if (!lines.length) return make("p.quiet", `${title}: none yet`);
  const list = make("ol.events", ...lines.map(([at, text]) => make("li", timestamp(at), make("span", text))));
  list.setAttribute("aria-label", title);
  return list;
}

// Fetches the status of a component: {data}, or {error} with the reason.
async function fetchStatus(name) {
  try {
    const response = await fetch(`/ops/${name}.json`, {
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_SECONDS * 1000),
    });
    if (response.ok) return { data: await response.json() };
    return { error: response.status === 429 ? "rate limited" : "not responding" };
  } catch {
    return { error: "not responding" };
  }
}

const rendered = {};

// Replaces a panel's content only when it has changed, so that a text selection survives.
function show(panel, ...content) {
  const box = make("div", ...content);
  if (rendered[panel] === box.innerHTML) return;
  rendered[panel] = box.innerHTML;
  document.getElementById(panel).replaceChildren(...box.childNodes);
}

function health(result, track) {
  if (result.error) return make("span.bad", `✕ ${result.error}`);
  if (result.data.track !== track) return make("span.bad", `✕ not responding; ${result.data.track} serves its requests`);
  if (!result.data.ready) return make("span.warning", `▲ not ready: ${result.data.failing.join(", ")}`);
  return make("span.good", "● ready");
}

function replicas(edge, service, autoscaler) {
  const fixed = edge.replicas[edge.services.indexOf(service)];
  if (fixed !== undefined) return `${fixed}, fixed`;
  const scaled = autoscaler && autoscaler.data && autoscaler.data.services[service];
  if (!scaled) return "unknown (autoscaler unavailable)";
  return `${scaled.ready} of ${scaled.current} ready, ${scaled.desired} desired (${scaled.minimum} to ${scaled.maximum})`;
}

function serviceCard(service, track, result, count) {
  const version = result.data && result.data.track === track ? make("span.version", result.data.version) : null;
  return make(
    "div.card",
    make("h3", track === "stable" ? service : `${service}, ${track}`),
    definitionList(["health", health(result, track)], ["version", version], ["track", track], ["replicas", count]),
  );
}

function showServices(edge, results) {
  const cards = [];
  for (const service of edge.services) {
    cards.push(serviceCard(service, "stable", results[service], replicas(edge, service, results["autoscale-service"])));
    const canary = results[`${service}-canary`];
    if (canary) cards.push(serviceCard(service, "canary", canary, null));
  }
  show("services", ...cards);
}

function showSplit(edge) {
  const canary = edge.canary_share;
  const bar = make("div.bar");
  for (const [track, share] of [["stable", 100 - canary], ["canary", canary]]) {
    const part = make(`div.${track}`);
    part.style.flexGrow = share;
    if (share) bar.append(part);
  }
  const text = canary ? `Stable ${100 - canary} %, canary ${canary} % of clients` : "All clients on stable";
  const previous = edge.revision === "previous" ? "NGINX serves the previous version." : null;
  show("split", bar, make("p", text), previous && make("p.warning", previous));
}

function showRollout(edge, result) {
  if (!result) return show("rollout", make("p.quiet", "Rollouts are not available in this stack."));
  if (result.error) return show("rollout", make("p.bad", `✕ rollout-service ${result.error}: canaries are not analyzed`));
  const state = result.data;
  const step = state.phase === "canary" ? `, step ${state.step + 1} of ${state.steps.length} (${state.steps[state.step]} %)` : "";
  const verdict = state.verdict && `${state.verdict.verdict} (${reasonText(state.verdict.reason)})`;
  const outcome = { promoted: "promoted", "rolled-back": "rolled back" }[state.outcome];
  const notes = [];
  if (state.waiting_for_approval) notes.push(make("p.warning", `▲ Waiting for approval at ${state.steps[state.step]} %`));
  if (state.analysis_skipped && state.phase !== "idle") notes.push(make("p.warning", "▲ Deployed without analysis (emergency)"));
  show(
    "rollout",
    make(state.phase === "rolling-back" ? "p.warning" : "p", PHASES[state.phase] + step),
    ...notes,
    definitionList(
      [state.phase === "idle" ? "last release" : "release", state.release ? make("span.version", state.release) : null],
      ["last verdict", verdict],
      ["outcome", outcome || null],
    ),
    outcomeTable(state.outcomes || []),
    events("History", state.history.map((event) => [event.at, eventText(event)])),
  );
}

// The shares of outcomes since the start of the step, by service; null without any.
function outcomeTable(rows) {
  if (!rows.length) return null;
  const percent = (share) => make("td", share === null ? "–" : `${(share * 100).toFixed(1)} %`);
  const header = (scope, text, span) => {
    const cell = make("th", text);
    cell.scope = scope;
    cell.colSpan = span || 1;
    return cell;
  };
  const table = make("table", make("caption", "Outcomes in this step"));
  table.append(make("tr", header("col", "outcome"), header("col", "canary"), header("col", "stable")));
  rows.forEach((row, index) => {
    if (!index || rows[index - 1].service !== row.service) table.append(make("tr", header("rowgroup", row.service, 3)));
    table.append(make("tr", header("row", row.outcome), percent(row.canary), percent(row.stable)));
  });
  return table;
}

function eventText(event) {
  const weight = event.weight ? ` (${event.weight} %)` : "";
  return PHASES[event.phase] + weight + (event.reason ? `: ${reasonText(event.reason)}` : "");
}

function showAutoscaler(edge, result) {
  if (!result) return show("autoscaler", make("p.quiet", "Autoscaling is not available in this stack."));
  if (result.error) return show("autoscaler", make("p.bad", `✕ autoscale-service ${result.error}: replicas are not scaled`));
  const state = result.data;
  let status = make("p.good", "● Active");
  if (state.paused) status = make("p.warning", "▲ Paused by an operator");
  else if (!state.leader) status = make("p.warning", "▲ Standby (another instance is the leader)");
  else if (state.dry_run) status = make("p.warning", "▲ Dry run (decides, but does not change replicas)");
  const services = Object.entries(state.services).map(([name, service]) => [name, `${service.desired} desired: ${reasonText(service.reason)}`]);
  const decisions = state.decisions.map((decision) => [
    decision.at,
    `${decision.service} ${decision.from} → ${decision.to}: ${reasonText(decision.reason)}${decision.failed ? " (failed)" : ""}`,
  ]);
  show("autoscaler", status, definitionList(...services), events("Decisions", decisions));
}

function showLinks(edge) {
  for (const name of ["grafana", "prometheus"]) document.getElementById(name).classList.toggle("missing", !edge[name]);
}

function problems(edge, results) {
  const lines = [];
  for (const [name, result] of Object.entries(results)) {
    if (result.error) lines.push(`${name} ${result.error}`);
    else if (!result.data.ready) lines.push(`${name} not ready`);
    else if (name.endsWith("-canary") && result.data.track !== "canary") lines.push(`${name} not responding`);
  }
  return lines;
}

function showOverall(lines) {
  show("overall", lines.length ? make("span.bad", `✕ ${lines.join("; ")}`) : make("span.good", "● All systems operational"));
}

async function refresh() {
  const { data: edge, error } = await fetchStatus("edge");
  if (error) return showOverall([`NGINX ${error}; the values below are outdated`]);
  const names = [...edge.services, ...(edge.canary_share ? edge.services.map((name) => `${name}-canary`) : []), ...edge.parts];
  const statuses = await Promise.all(names.map(fetchStatus));
  const results = Object.fromEntries(names.map((name, index) => [name, statuses[index]]));
  showServices(edge, results);
  showSplit(edge);
  showRollout(edge, results["rollout-service"]);
  showAutoscaler(edge, results["autoscale-service"]);
  showLinks(edge);
  showOverall(problems(edge, results));
  document.getElementById("updated").textContent = `Last updated at ${new Date().toLocaleTimeString()}.`;
}

let next;

// A hidden page does not poll; once visible again, it updates immediately.
async function poll() {
  clearTimeout(next);
  next = null;
  if (document.hidden) return;
  await refresh();
  if (next === null) next = setTimeout(poll, INTERVAL_SECONDS * 1000);
}

document.addEventListener("visibilitychange", poll);
poll();
