import { expect, it } from "vitest";
import { PREFIX } from "../../src/server/route.ts";
import { createRouter } from "../../src/server/router.ts";
import { routes } from "../../src/server/routes.ts";

const find = createRouter(routes, PREFIX);

it("leads every path of the table to its routes", () => {
  for (const route of routes) {
    const target = (PREFIX + route.path).replace(":id", "box").replace(":port", "80");
    const match = find(`${target}?a=/b/c`);
    expect(match?.routes.get(route.method), target).toBe(route);
    expect(match?.parameters.id).toBe(route.path.includes(":id") ? "box" : undefined);
    expect(match?.parameters.port).toBe(route.path.includes(":port") ? "80" : undefined);
  }
});

it("takes an id as it was encoded, and only one part of the path", () => {
  expect(find("/api/v1/sandboxes/a%20b%2Fc/exec")?.parameters.id).toBe("a b/c");
  expect(find("/api/v1/sandboxes/%zz")?.parameters.id).toBe("%zz");
  expect(find("/api/v1/sandboxes/..")?.parameters.id).toBe("..");
  expect(find("http://host:1/api/v1/sandboxes/x")?.parameters.id).toBe("x");
});

it("finds nothing where there is nothing", () => {
  const nowhere = [
    "",
    "/",
    "*",
    "host:80",
    "/api/v1",
    "/api/v1/",
    "/api/v1/sandboxes/",
    "/api/v1/sandboxes//exec",
  ];
  for (const target of [
    ...nowhere,
    "/api/v1/health/",
    "/api/v1/x",
    "/api/v1/sandboxes/a/b",
    "//api/v1/health",
  ]) {
    expect(find(target), target).toBeUndefined();
  }
});
