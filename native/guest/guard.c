// Open network without internal addresses: before anybody else runs here, rules of nf_tables in the sandbox's own network
// namespace decide which addresses can be reached, and the capability that could change them is given up. Nobody inside has it.
#include "guest.h"
#include "nftables.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
  MOST_ITEMS = 1024,
  ITEM_BYTES = 1024, // of a batch, at most
  FIXED_BYTES = 16384,
  // At one time. Each is an entry in this namespace's table of connections, and in the host's where the host translates
  // addresses; neither counts as the sandbox's memory.
  MOST_CONNECTIONS = 4096,
  LOOPBACK = 772, // ARPHRD_LOOPBACK
  CAP_NET_ADMIN = 12,
};

static const char out[] = "out", in[] = "in", raw_out[] = "raw-out", raw_in[] = "raw-in";

struct item {
  bool accept;
  bool ipv6;
  unsigned char address[16], mask[16];
  uint16_t from, to; // 0: all ports, and all protocols
};

/// A number at `*at`, up to `most`, which is moved behind it. False when there is none.
static bool number(const char **at, unsigned long most, unsigned long *value) {
  if (**at < '0' || **at > '9') return false;
  char *end;
  *value = strtoul(*at, &end, 10);
  *at = end;
  return *value <= most;
}

/// `+` or `-`, ADDRESS/BITS, and `@FROM-TO` for ports.
static bool parse_item(const char *text, size_t length, struct item *item) {
  char address[INET6_ADDRSTRLEN];
  const char *slash = memchr(text, '/', length);
  if (length < 2 || slash == NULL || (*text != '+' && *text != '-')) return false;
  size_t address_bytes = (size_t)(slash - text - 1);
  if (address_bytes >= sizeof address) return false;
  memcpy(address, text + 1, address_bytes);
  address[address_bytes] = 0;
  *item = (struct item){.accept = *text == '+', .ipv6 = strchr(address, ':') != NULL};
  if (inet_pton(item->ipv6 ? AF_INET6 : AF_INET, address, item->address) != 1) return false;
  const char *at = slash + 1, *end = text + length;
  unsigned long bits, from, to;
  if (!number(&at, item->ipv6 ? 128 : 32, &bits)) return false;
  for (size_t i = 0; i < sizeof item->mask; i++) {
    unsigned left = bits > i * 8 ? (unsigned)(bits - i * 8) : 0;
    item->mask[i] = left >= 8 ? 0xff : (unsigned char)(0xff00 >> left);
    item->address[i] &= item->mask[i];
  }
  if (at == end) return true;
  if (*at++ != '@' || !number(&at, 65535, &from) || *at++ != '-' || !number(&at, 65535, &to)) return false;
  if (at != end || from == 0 || from > to) return false;
  item->from = (uint16_t)from;
  item->to = (uint16_t)to;
  return true;
}

static void verdict_rule(struct nft *n, const struct item *item, uint8_t protocol) {
  static const unsigned char whole[16] = {0};
  nft_rule(n, out);
  nft_if_meta8(n, NF_META_NFPROTO, item->ipv6 ? NF_FAMILY_IPV6 : NF_FAMILY_IPV4);
  size_t bytes = item->ipv6 ? 16 : 4;
  // A mask of nothing is all there is.
  if (memcmp(item->mask, whole, bytes) != 0)
    nft_if_masked(n, NF_NETWORK_HEADER, item->ipv6 ? 24 : 16, item->address, item->mask, bytes);
  if (protocol != 0) {
    uint16_t from = htons(item->from), to = htons(item->to);
    nft_if_meta8(n, NF_META_L4PROTO, protocol);
    nft_if_payload(n, NF_TRANSPORT_HEADER, 2, NF_CMP_GTE, &from, sizeof from);
    nft_if_payload(n, NF_TRANSPORT_HEADER, 2, NF_CMP_LTE, &to, sizeof to);
  }
  if (item->accept) nft_verdict(n, NF_VERDICT_ACCEPT);
  else nft_reject(n);
  nft_rule_end(n);
}

static void counted(struct nft *n) {
  nft_rule(n, out);
  nft_if_more_than(n, MOST_CONNECTIONS);
  nft_reject(n);
  nft_rule_end(n);
}

/// Everything of the loopback device, whose packets never leave.
static void loopback_rule(struct nft *n, const char *chain, bool incoming, bool untracked) {
  static const uint16_t loopback = LOOPBACK;
  nft_rule(n, chain);
  nft_if_meta(n, incoming ? NF_META_IIFTYPE : NF_META_OIFTYPE, &loopback, sizeof loopback);
  if (untracked) nft_notrack(n);
  else nft_verdict(n, NF_VERDICT_ACCEPT);
  nft_rule_end(n);
}

static void state_rule(struct nft *n, const char *chain, uint32_t states) {
  nft_rule(n, chain);
  nft_if_state(n, states);
  nft_verdict(n, NF_VERDICT_ACCEPT);
  nft_rule_end(n);
}

/// What IPv6 needs of ICMP to find neighbours and routers. Only the kernel can send it: nobody inside has raw sockets.
static void neighbour_rule(struct nft *n, const char *chain, uint8_t first, uint8_t last) {
  nft_rule(n, chain);
  nft_if_meta8(n, NF_META_NFPROTO, NF_FAMILY_IPV6);
  nft_if_meta8(n, NF_META_L4PROTO, IPPROTO_ICMPV6);
  nft_if_payload(n, NF_TRANSPORT_HEADER, 0, NF_CMP_GTE, &first, sizeof first);
  nft_if_payload(n, NF_TRANSPORT_HEADER, 0, NF_CMP_LTE, &last, sizeof last);
  nft_verdict(n, NF_VERDICT_ACCEPT);
  nft_rule_end(n);
}

/// 0 or an errno.
static int install(const struct item *items, size_t count) {
  struct nft n;
  int error = nft_begin(&n, FIXED_BYTES + count * 2 * ITEM_BYTES);
  if (error != 0) return error;
  nft_table(&n, NF_FAMILY_INET, "warren", NETLINK_EXCL);
  nft_chain(&n, raw_out, NF_LOCAL_OUT, NF_PRIORITY_RAW, NF_VERDICT_ACCEPT);
  nft_chain(&n, raw_in, NF_PRE_ROUTING, NF_PRIORITY_RAW, NF_VERDICT_ACCEPT);
  nft_chain(&n, out, NF_LOCAL_OUT, NF_PRIORITY_FILTER, NF_VERDICT_DROP);
  nft_chain(&n, in, NF_LOCAL_IN, NF_PRIORITY_FILTER, NF_VERDICT_DROP);
  loopback_rule(&n, raw_out, false, true);
  loopback_rule(&n, raw_in, true, true);
  loopback_rule(&n, in, true, false);
  state_rule(&n, in, NF_CT_ESTABLISHED | NF_CT_RELATED);
  neighbour_rule(&n, in, 130, 136);
  loopback_rule(&n, out, false, false);
  state_rule(&n, out, NF_CT_ESTABLISHED);
  neighbour_rule(&n, out, 133, 136);
  counted(&n);
  for (size_t i = 0; i < count; i++) {
    if (items[i].from == 0) verdict_rule(&n, &items[i], 0);
    else {
      verdict_rule(&n, &items[i], IPPROTO_TCP);
      verdict_rule(&n, &items[i], IPPROTO_UDP);
    }
  }
  nft_rule(&n, out);
  nft_verdict(&n, NF_VERDICT_ACCEPT);
  nft_rule_end(&n);
  return nft_commit(&n);
}

bool drop_net_admin(void) {
  struct {
    uint32_t version;
    int pid;
  } head = {0x20080522, 0}; // version 3
  struct {
    uint32_t effective, permitted, inheritable;
  } sets[2];
  if (syscall(SYS_capget, &head, sets) != 0) return false;
  if ((sets[0].permitted & 1u << CAP_NET_ADMIN) == 0 && prctl(PR_CAPBSET_READ, CAP_NET_ADMIN, 0, 0, 0) == 0) return true;
  // Without it in this set, no program that root starts has it.
  if (prctl(PR_CAPBSET_DROP, CAP_NET_ADMIN, 0, 0, 0) != 0) return false;
  sets[0].effective &= ~(1u << CAP_NET_ADMIN);
  sets[0].permitted &= ~(1u << CAP_NET_ADMIN);
  sets[0].inheritable &= ~(1u << CAP_NET_ADMIN);
  return syscall(SYS_capset, &head, sets) == 0;
}

int guard_check(void) {
  // Root needs no user namespace for it, which some hosts let nobody have.
  if (unshare(geteuid() == 0 ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET) == 0 && guard("-10.0.0.0/8,+10.0.0.0/8@53-53")) return 0;
  perror("warren-guest: making rules of nf_tables");
  return 1;
}

bool guard(const char *text) {
  struct item *items = calloc(MOST_ITEMS, sizeof *items);
  if (items == NULL) return false;
  size_t count = 0;
  bool ok = true;
  for (const char *at = text; ok && *at != 0;) {
    size_t length = strcspn(at, ",");
    ok = count < MOST_ITEMS && parse_item(at, length, &items[count++]);
    at += length + (at[length] == ',');
  }
  int error = ok ? install(items, count) : EINVAL;
  free(items);
  errno = error;
  return error == 0 && drop_net_admin();
}
