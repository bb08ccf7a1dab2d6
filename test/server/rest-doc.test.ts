import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { errorCatalogue } from "../../src/contracts/errors.ts";
import { errorGroups, type Route } from "../../src/server/route.ts";
import { routes } from "../../src/server/routes.ts";

const page = readFileSync(new URL("../../docs/wire/rest.md", import.meta.url), "utf8");
const rows = page
  .split("\n")
  .filter((line) => line.startsWith("| "))
  .map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );

/** Codes of a cell, with the groups in it spelled out. */
function codesOf(cell: string): string[] {
  const codes = [...cell.matchAll(/`([a-z_]+)`/g)].map((match) => match[1] ?? "");
  const words = cell.replace(/`[a-z_]+`/g, "").match(/[a-z]+/g) ?? [];
  return [
    ...codes,
    ...words.flatMap((word) => [...(errorGroups[word as keyof typeof errorGroups] ?? [`?${word}`])]),
  ];
}

it("names every route with its status and errors, and no other", () => {
  const told = rows.flatMap(([route = "", , gives = "", errors = ""]) => {
    const match = /^`([A-Z]+ \/.*)`$/.exec(route);
    return match
      ? [
          {
            route: match[1],
            status: Number(/^\d+/.exec(gives)?.[0]),
            errors: codesOf(errors).sort(),
          },
        ]
      : [];
  });
  const real = (routes as readonly Route[]).map(({ method, path, status, errors }) => ({
    route: `${method} ${path.replace(/:(\w+)/g, "{$1}")}`,
    status,
    errors: [...errors].sort(),
  }));
  const order = (a: { route: string | undefined }, b: { route: string | undefined }) =>
    (a.route ?? "").localeCompare(b.route ?? "");
  expect(told.sort(order)).toEqual(real.sort(order));
});

it("names every query parameter of every route", () => {
  for (const route of routes as readonly Route[]) {
    const name = `\`${route.method} ${route.path.replace(/:(\w+)/g, "{$1}")}\``;
    const takes = rows.find(([first]) => first === name)?.[1] ?? "";
    for (const parameter of Object.keys(route.query?.shape ?? {}))
      expect(takes, name).toContain(`\`${parameter}\``);
  }
});

it("names every error code with its status and whether to retry", () => {
  const told = rows.flatMap(([code = "", status = "", retry = ""]) => {
    const match = /^`([a-z_]+)`$/.exec(code);
    return match && /^\d{3}$/.test(status)
      ? [[match[1], { status: Number(status), retryable: retry === "yes" }]]
      : [];
  });
  expect(Object.fromEntries(told)).toEqual(errorCatalogue);
});

it("spells out its groups of errors as the code does", () => {
  const told = Object.fromEntries(
    rows.flatMap(([name = "", codes = "", more]) =>
      more === undefined && name in errorGroups ? [[name, codesOf(codes).sort()]] : [],
    ),
  );
  const real = Object.fromEntries(
    Object.entries(errorGroups).map(([name, codes]) => [name, [...codes].sort()]),
  );
  expect(told).toEqual(real);
});
