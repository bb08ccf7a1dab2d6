#include "nftables.h"

#include <arpa/inet.h>

// linux/netlink.h, nfnetlink.h, nf_tables.h.
enum { BATCH_BEGIN = 0x10, BATCH_END = 0x11, SUBSYSTEM = 10 };
enum { NEW_TABLE = SUBSYSTEM << 8, NEW_CHAIN = NEW_TABLE | 3, GET_CHAIN = NEW_TABLE | 4, NEW_RULE = NEW_TABLE | 6, DELETE_RULE = NEW_TABLE | 8 };
enum { TABLE_NAME = 1, CHAIN_TABLE = 1, CHAIN_NAME = 3, CHAIN_HOOK = 4, CHAIN_POLICY = 5, CHAIN_TYPE = 7 };
enum { HOOK_NUMBER = 1, HOOK_PRIORITY = 2 };
enum { RULE_TABLE = 1, RULE_CHAIN = 2, RULE_EXPRESSIONS = 4, LIST_ELEMENT = 1, EXPRESSION_NAME = 1, EXPRESSION_DATA = 2 };
enum { DATA_VALUE = 1, DATA_VERDICT = 2, VERDICT_CODE = 1, VERDICT_CHAIN = 2, JUMP = -3 };
enum { TO_VERDICT = 0, REGISTER = 1, OTHER_REGISTER = 2 };
enum { IMMEDIATE_REGISTER = 1, IMMEDIATE_DATA = 2 };
enum { COMPARE_REGISTER = 1, COMPARE_HOW = 2, COMPARE_DATA = 3, IS_NOT = 1 };
enum { BITWISE_FROM = 1, BITWISE_TO = 2, BITWISE_BYTES = 3, BITWISE_MASK = 4, BITWISE_XOR = 5 };
enum { PAYLOAD_REGISTER = 1, PAYLOAD_BASE = 2, PAYLOAD_OFFSET = 3, PAYLOAD_BYTES = 4 };
// Of meta and ct, and the other way round of socket.
enum { LOAD_REGISTER = 1, LOAD_KEY = 2, SOCKET_KEY = 1, SOCKET_REGISTER = 2 };
enum { CT_STATE = 0, CT_MARK = 3, CT_DIRECTION = 3, CT_FROM_REGISTER = 4, DIRECTION_ORIGINAL = 0 };
enum { SOCKET_IS_TRANSPARENT = 0 };
enum { LIMIT_COUNT = 1, LIMIT_FLAGS = 2, LIMIT_INVERTED = 1 }; // of connlimit
enum { RATE = 1, RATE_SECONDS = 2, RATE_BURST = 3, META_KEY = 2, META_FROM_REGISTER = 3, META_TRACE = 12 };
enum { REJECT_TYPE = 1, REJECT_CODE = 2, REJECT_RESET = 1, REJECT_ICMP_OF_EITHER = 2, REJECT_PROHIBITED = 3 };
enum { TPROXY_FAMILY = 1, TPROXY_ADDRESS = 2, TPROXY_PORT = 3 };

/// struct nfgenmsg
struct generic {
  uint8_t family, version;
  uint16_t resource; // big endian
};

static void put_be32(struct nft *n, uint16_t type, uint32_t value) { netlink_put32(&n->netlink, type, htonl(value)); }

static void put_be64(struct nft *n, uint16_t type, uint64_t value) {
  uint32_t halves[2] = {htonl((uint32_t)(value >> 32)), htonl((uint32_t)value)};
  netlink_put(&n->netlink, type, halves, sizeof halves);
}

static void put_text(struct nft *n, uint16_t type, const char *text) { netlink_put_text(&n->netlink, type, text); }

static void put_data(struct nft *n, uint16_t type, const void *value, size_t bytes) {
  size_t data = netlink_nest(&n->netlink, type);
  netlink_put(&n->netlink, DATA_VALUE, value, bytes);
  netlink_unnest(&n->netlink, data);
}

static void mark(struct nft *n, uint16_t type) {
  struct generic batch = {.resource = htons(SUBSYSTEM)};
  netlink_begin(&n->netlink, type, 0, &batch, sizeof batch);
}

static void change(struct nft *n, uint16_t type, uint16_t flags) {
  struct generic g = {.family = n->family};
  netlink_begin(&n->netlink, type, flags, &g, sizeof g);
  put_text(n, TABLE_NAME, n->table);
}

int nft_begin(struct nft *n, size_t size) {
  int error = netlink_open(&n->netlink, NF_NETLINK_PROTOCOL, size);
  if (error == 0) mark(n, BATCH_BEGIN);
  return error;
}

void nft_use(struct nft *n, uint8_t family, const char *table) {
  n->family = family;
  n->table = table;
}

void nft_table(struct nft *n, uint8_t family, const char *table, uint16_t flags) {
  nft_use(n, family, table);
  change(n, NEW_TABLE, NETLINK_CREATE | flags);
}

void nft_chain(struct nft *n, const char *chain, uint32_t hook, int32_t priority, uint32_t policy) {
  change(n, NEW_CHAIN, NETLINK_CREATE);
  put_text(n, CHAIN_NAME, chain);
  size_t where = netlink_nest(&n->netlink, CHAIN_HOOK);
  put_be32(n, HOOK_NUMBER, hook);
  put_be32(n, HOOK_PRIORITY, (uint32_t)priority);
  netlink_unnest(&n->netlink, where);
  put_be32(n, CHAIN_POLICY, policy);
  put_text(n, CHAIN_TYPE, "filter");
}

void nft_inner_chain(struct nft *n, const char *chain) {
  change(n, NEW_CHAIN, NETLINK_CREATE);
  put_text(n, CHAIN_NAME, chain);
}

void nft_flush(struct nft *n, const char *chain) {
  change(n, DELETE_RULE, 0);
  put_text(n, RULE_CHAIN, chain);
}

void nft_rule(struct nft *n, const char *chain) {
  change(n, NEW_RULE, NETLINK_CREATE | NETLINK_APPEND);
  put_text(n, RULE_CHAIN, chain);
  n->expressions = netlink_nest(&n->netlink, RULE_EXPRESSIONS);
}

void nft_rule_end(struct nft *n) { netlink_unnest(&n->netlink, n->expressions); }

struct expression {
  size_t element, data;
};

static struct expression expression(struct nft *n, const char *name) {
  struct expression e = {.element = netlink_nest(&n->netlink, LIST_ELEMENT)};
  put_text(n, EXPRESSION_NAME, name);
  e.data = netlink_nest(&n->netlink, EXPRESSION_DATA);
  return e;
}

static void expression_end(struct nft *n, struct expression e) {
  netlink_unnest(&n->netlink, e.data);
  netlink_unnest(&n->netlink, e.element);
}

/// An expression that needs to be told two numbers.
static void simple(struct nft *n, const char *name, uint32_t first, uint32_t second) {
  struct expression e = expression(n, name);
  put_be32(n, 1, first);
  put_be32(n, 2, second);
  expression_end(n, e);
}

static void load(struct nft *n, const char *name, uint32_t key) {
  _Static_assert(LOAD_REGISTER == 1 && LOAD_KEY == 2, "what simple() writes");
  simple(n, name, REGISTER, key);
}

static void load_payload(struct nft *n, uint32_t header, uint32_t offset, size_t bytes) {
  struct expression e = expression(n, "payload");
  put_be32(n, PAYLOAD_REGISTER, REGISTER);
  put_be32(n, PAYLOAD_BASE, header);
  put_be32(n, PAYLOAD_OFFSET, offset);
  put_be32(n, PAYLOAD_BYTES, (uint32_t)bytes);
  expression_end(n, e);
}

static void compare(struct nft *n, uint32_t comparison, const void *value, size_t bytes) {
  struct expression e = expression(n, "cmp");
  put_be32(n, COMPARE_REGISTER, REGISTER);
  put_be32(n, COMPARE_HOW, comparison);
  put_data(n, COMPARE_DATA, value, bytes);
  expression_end(n, e);
}

static void mask_register(struct nft *n, const void *mask, size_t bytes) {
  static const unsigned char zero[16];
  struct expression e = expression(n, "bitwise");
  put_be32(n, BITWISE_FROM, REGISTER);
  put_be32(n, BITWISE_TO, REGISTER);
  put_be32(n, BITWISE_BYTES, (uint32_t)bytes);
  put_data(n, BITWISE_MASK, mask, bytes);
  put_data(n, BITWISE_XOR, zero, bytes);
  expression_end(n, e);
}

void nft_if_meta(struct nft *n, uint32_t key, const void *value, size_t bytes) {
  load(n, "meta", key);
  compare(n, NF_CMP_EQ, value, bytes);
}

void nft_if_meta8(struct nft *n, uint32_t key, uint8_t value) { nft_if_meta(n, key, &value, sizeof value); }

void nft_if_payload(struct nft *n, uint32_t header, uint32_t offset, uint32_t comparison, const void *value, size_t bytes) {
  load_payload(n, header, offset, bytes);
  compare(n, comparison, value, bytes);
}

void nft_if_masked(struct nft *n, uint32_t header, uint32_t offset, const void *value, const void *mask, size_t bytes) {
  load_payload(n, header, offset, bytes);
  mask_register(n, mask, bytes);
  compare(n, NF_CMP_EQ, value, bytes);
}

void nft_if_state(struct nft *n, uint32_t states) {
  static const uint32_t none = 0;
  load(n, "ct", CT_STATE);
  mask_register(n, &states, sizeof states);
  compare(n, IS_NOT, &none, sizeof none);
}

static void load_connection(struct nft *n, uint32_t key) {
  static const uint8_t original = DIRECTION_ORIGINAL;
  struct expression e = expression(n, "ct");
  put_be32(n, LOAD_REGISTER, REGISTER);
  put_be32(n, LOAD_KEY, key);
  netlink_put(&n->netlink, CT_DIRECTION, &original, sizeof original);
  expression_end(n, e);
}

void nft_if_connection(struct nft *n, uint32_t key, uint32_t comparison, const void *value, size_t bytes) {
  load_connection(n, key);
  compare(n, comparison, value, bytes);
}

void nft_if_connection_masked(struct nft *n, uint32_t key, const void *value, const void *mask, size_t bytes) {
  load_connection(n, key);
  mask_register(n, mask, bytes);
  compare(n, NF_CMP_EQ, value, bytes);
}

void nft_if_mark(struct nft *n, uint32_t mark) {
  load(n, "ct", CT_MARK);
  compare(n, NF_CMP_EQ, &mark, sizeof mark);
}

void nft_if_more_than(struct nft *n, uint32_t connections) {
  _Static_assert(LIMIT_COUNT == 1 && LIMIT_FLAGS == 2, "what simple() writes");
  simple(n, "connlimit", connections, LIMIT_INVERTED);
}

void nft_if_rarer_than(struct nft *n, uint64_t per_second, uint32_t burst) {
  struct expression e = expression(n, "limit");
  put_be64(n, RATE, per_second);
  put_be64(n, RATE_SECONDS, 1);
  put_be32(n, RATE_BURST, burst);
  expression_end(n, e);
}

void nft_if_socket(struct nft *n) {
  _Static_assert(SOCKET_KEY == 1 && SOCKET_REGISTER == 2, "what simple() writes");
  simple(n, "socket", SOCKET_IS_TRANSPARENT, REGISTER);
}

static void set_register(struct nft *n, uint32_t to, const void *value, size_t bytes) {
  struct expression e = expression(n, "immediate");
  put_be32(n, IMMEDIATE_REGISTER, to);
  put_data(n, IMMEDIATE_DATA, value, bytes);
  expression_end(n, e);
}

void nft_set_mark(struct nft *n, uint32_t mark) {
  set_register(n, REGISTER, &mark, sizeof mark);
  struct expression e = expression(n, "ct");
  put_be32(n, LOAD_KEY, CT_MARK);
  put_be32(n, CT_FROM_REGISTER, REGISTER);
  expression_end(n, e);
}

void nft_trace(struct nft *n) {
  static const uint8_t on = 1;
  set_register(n, REGISTER, &on, sizeof on);
  struct expression e = expression(n, "meta");
  put_be32(n, META_KEY, META_TRACE);
  put_be32(n, META_FROM_REGISTER, REGISTER);
  expression_end(n, e);
}

static void put_verdict(struct nft *n, int32_t code, const char *chain) {
  struct expression e = expression(n, "immediate");
  put_be32(n, IMMEDIATE_REGISTER, TO_VERDICT);
  size_t data = netlink_nest(&n->netlink, IMMEDIATE_DATA), inner = netlink_nest(&n->netlink, DATA_VERDICT);
  put_be32(n, VERDICT_CODE, (uint32_t)code);
  if (chain != NULL) put_text(n, VERDICT_CHAIN, chain);
  netlink_unnest(&n->netlink, inner);
  netlink_unnest(&n->netlink, data);
  expression_end(n, e);
}

void nft_verdict(struct nft *n, int32_t verdict) { put_verdict(n, verdict, NULL); }

void nft_jump(struct nft *n, const char *chain) { put_verdict(n, JUMP, chain); }

static void put_reject(struct nft *n, uint32_t type, uint8_t code) {
  struct expression e = expression(n, "reject");
  put_be32(n, REJECT_TYPE, type);
  netlink_put(&n->netlink, REJECT_CODE, &code, sizeof code);
  expression_end(n, e);
}

void nft_reject(struct nft *n) { put_reject(n, REJECT_ICMP_OF_EITHER, REJECT_PROHIBITED); }

void nft_reset(struct nft *n) { put_reject(n, REJECT_RESET, 0); }

void nft_notrack(struct nft *n) { expression_end(n, expression(n, "notrack")); }

void nft_tproxy(struct nft *n, const void *address, size_t bytes, uint16_t port) {
  uint16_t value = htons(port);
  set_register(n, REGISTER, address, bytes);
  set_register(n, OTHER_REGISTER, &value, sizeof value);
  struct expression e = expression(n, "tproxy");
  put_be32(n, TPROXY_FAMILY, n->family);
  put_be32(n, TPROXY_ADDRESS, REGISTER);
  put_be32(n, TPROXY_PORT, OTHER_REGISTER);
  expression_end(n, e);
}

int nft_commit(struct nft *n) {
  // After the last change nothing can fail.
  netlink_ask(&n->netlink);
  mark(n, BATCH_END);
  int error = netlink_send(&n->netlink);
  netlink_close(&n->netlink);
  return error;
}

int nft_look_up_chain(uint8_t family, const char *table, const char *chain) {
  enum { REQUEST_BYTES = 256 };
  struct nft n = {0};
  int error = netlink_open(&n.netlink, NF_NETLINK_PROTOCOL, REQUEST_BYTES);
  if (error != 0) return error;
  nft_use(&n, family, table);
  change(&n, GET_CHAIN, 0);
  put_text(&n, CHAIN_NAME, chain);
  error = netlink_send(&n.netlink);
  netlink_close(&n.netlink);
  return error;
}
