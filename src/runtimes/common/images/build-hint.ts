/** Why a build may fail that would not elsewhere. */
export const NO_NETWORK = "commands of a build have no network unless they are given one: --network open";
