import { describe, expect, it } from "vitest";
import { runBench } from "../../bench/bench.ts";
import { fillPage } from "../../bench/report/page.ts";
import { plot } from "../../bench/report/plot.ts";

const WARREN = ["Warren HTTP (crun)", "Warren SDK (crun)"];
const PEERS = ["crun (bare)", "bubblewrap"];

// What the figures are depends on the machine and its load, so none is looked at.
describe("the bench", () => {
  it("measures everything that it shows, for all who take part, and reports it", async () => {
    const results = await runBench({
      rounds: 1,
      burst: 2,
      idle: 2,
      egress: { rounds: 1, requests: 10, connections: 20, churn: 20, mebibytes: 2, httpsMebibytes: 2 },
      largeBytes: 2 ** 20,
      only: [...WARREN, ...PEERS],
      signal: AbortSignal.timeout(60_000),
    });
    const left = results.notes.filter((note) => /^left out: (?!tinyproxy)/.test(note));
    expect(left).toEqual([]);
    const who = Object.fromEntries(results.measures.map(({ what, samples }) => [what, Object.keys(samples)]));
    const everybody = [...WARREN, ...PEERS].sort();
    for (const what of ["create to first stdout", "destroy", "exec /bin/true", "write 1 KiB", "read 1 KiB"]) {
      expect(who[what]?.sort(), what).toEqual(everybody);
    }
    for (const what of [
      "write 1 MiB",
      "read 1 MiB",
      "burst of 2 creates",
      "failures in a burst of 2 creates",
    ]) {
      expect(who[what]?.sort(), what).toEqual(everybody);
    }
    expect(who["event-loop lag in a burst, longest"]).toEqual(WARREN);
    expect(who["health in a burst"]).toEqual(WARREN);
    expect(who["one command from a shell"]).toEqual([
      "node -e 0",
      "warren exec (CLI)",
      "the same by Node alone",
    ]);
    expect(who["memory of 2 idle sandboxes, each"]).toEqual(["Warren HTTP (crun)", "crun (bare)"]);
    expect(who["exec with 2 sandboxes"]).toEqual(["Warren HTTP (crun)", "crun (bare)"]);
    for (const what of [
      "HTTPS request, a connection each",
      "HTTPS requests, a connection each, 16 at once",
      "2 MiB to the client",
      "2 MiB to the server",
      "20 connections at once, all served",
      "memory of each of 20 more idle connections: kernel, with client and server",
    ]) {
      // And tinyproxy, where it is installed.
      expect(who[what], what).toEqual(expect.arrayContaining([WARREN[0], "direct"]));
    }
    for (const what of [
      "HTTPS request, a connection each",
      ...["HTTP/1.1", "HTTP/2"].flatMap((protocol) =>
        ["client", "server"].map((to) => `2 MiB over HTTPS to the ${to}, ${protocol}`),
      ),
    ]) {
      expect(who[what], what).toEqual(
        expect.arrayContaining([WARREN[0], `${WARREN[0]}, with a secret`, "direct"]),
      );
    }
    expect(Object.keys(who).filter((what) => what.startsWith("growth over 20 connections"))).toHaveLength(4);
    expect(results.notes.filter((note) => note.startsWith("egress"))).toEqual([]);
    const samples = results.measures.flatMap((measure) => Object.values(measure.samples).flat());
    expect(samples.every(Number.isFinite)).toBe(true);

    const parts = ["machine", "goals", "figures"].map(
      (part) => `<!-- ${part}: generated -->old<!-- /${part} -->`,
    );
    const page = fillPage(`by hand\n${parts.join("\n")}`, results);
    expect(page).toContain("by hand");
    expect(page).not.toContain("old");
    expect(page).toMatch(/^\| create to first stdout, ms \| Warren HTTP \(crun\) \| [\d.]+ \|/m);
    expect(page).toMatch(/^\| create to first stdout, p50 \| ≤ 20 ms \| [\d.]+ ms \| (yes|no: .*) \|$/m);
    expect(plot(results)).toMatch(/^<svg .*crun \(bare\).*<\/svg>\n$/s);
  }, 90_000);
});
