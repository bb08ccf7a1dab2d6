/** The layers of docs/ARCHITECTURE.md: imports point down only. */
const below = {
  contracts: [],
  lib: ["contracts"],
  guest: ["contracts", "lib"],
  runtimes: ["contracts", "lib", "guest"],
  engine: ["contracts", "lib", "guest", "runtimes"],
  client: ["contracts"],
  server: ["contracts", "lib"],
  testing: ["contracts", "lib", "guest"],
  app: ["contracts", "lib", "guest", "runtimes", "engine", "client", "server"],
  cli: ["contracts", "lib", "client", "app"],
};
const layerRules = Object.entries(below).map(([layer, allowed]) => ({
  name: `layer-${layer}`,
  comment: `src/${layer} may import ${allowed.length ? allowed.join(", ") : "zod only"}`,
  severity: "error",
  from: { path: `^src/${layer}/` },
  to: { path: "^src/", pathNot: `^src/(${[layer, ...allowed].join("|")})/` },
}));
module.exports = {
  forbidden: [
    ...layerRules,
    {
      name: "contracts-only-zod",
      severity: "error",
      from: { path: "^src/contracts/" },
      to: {
        dependencyTypes: ["npm", "core"],
        pathNot: "node_modules/zod/",
        dependencyTypesNot: ["type-only"],
      },
    },
    {
      name: "client-is-browser-safe",
      severity: "error",
      from: { path: "^src/client/", pathNot: "^src/client/node/" },
      to: { dependencyTypes: ["core"], dependencyTypesNot: ["type-only"] },
    },
    { name: "no-cycles", severity: "error", from: {}, to: { circular: true } },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: {
      conditionNames: ["import", "types", "node", "default"],
      exportsFields: ["exports"],
    },
  },
};
