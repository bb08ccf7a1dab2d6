// Open network without internal addresses: before anybody else runs here, rules of nf_tables in the sandbox's own network
// namespace decide which addresses can be reached, and the capability that could change them is given up. Nobody inside has it:
// it is from outside that the rules are changed, by guard_change().
//
// A connection is judged once, by the rules of that time, whose number it gets as its mark when they allow it. What has another
// mark is judged anew: that of a connection which new rules deny is none of theirs, so that its next packet ends it.
#include "enter.h"
#include "guest.h"
#include "nftables.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
  MOST_ITEMS = 1024,
  ITEM_BYTES = 1024, // of a batch, at most
  FIXED_BYTES = 16384,
  MOST_TEXT = 256 << 10, // of all items
  // At one time. Each is an entry in this namespace's table of connections, and in the host's where the host translates
  // addresses; neither counts as the sandbox's memory.
  MOST_CONNECTIONS = 4096,
  // Denied packets that the host is told of: enough for every program that is no flood.
  TOLD_PER_SECOND = 20,
  TOLD_AT_ONCE = 40,
  LOOPBACK = 772, // ARPHRD_LOOPBACK
  CAP_NET_ADMIN = 12,
};

static const char table[] = GUARD_TABLE, out[] = "out", in[] = "in", raw_out[] = "raw-out", raw_in[] = "raw-in";
// Where connections are counted, and where they are judged.
static const char begun[] = "begun", judge[] = "judge";
// What is about to be denied, and what is one connection too many, comes here: whoever watches is told the chain.
static const char denied[] = GUARD_DENIED, full[] = GUARD_FULL;

struct items {
  size_t count;
  struct item *all;
};
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

/// For a connection to the item's addresses, whichever way this packet of it goes.
static void if_destination(struct nft *n, const struct item *item) {
  static const unsigned char whole[16] = {0};
  size_t bytes = item->ipv6 ? 16 : 4;
  uint32_t key = item->ipv6 ? NF_CT_DESTINATION_IPV6 : NF_CT_DESTINATION_IPV4;
  // A mask of nothing is all there is.
  if (memcmp(item->mask, whole, bytes) == 0)
    nft_if_meta8(n, NF_META_NFPROTO, item->ipv6 ? NF_FAMILY_IPV6 : NF_FAMILY_IPV4);
  else nft_if_connection_masked(n, key, item->address, item->mask, bytes);
}

/// `protocol` 0: whatever it is.
static void item_rule(struct nft *n, const struct item *item, uint8_t protocol, uint32_t mark) {
  nft_rule(n, judge);
  if_destination(n, item);
  if (protocol != 0) {
    uint16_t from = htons(item->from), to = htons(item->to);
    nft_if_connection(n, NF_CT_PROTOCOL, NF_CMP_EQ, &protocol, sizeof protocol);
    nft_if_connection(n, NF_CT_DESTINATION_PORT, NF_CMP_GTE, &from, sizeof from);
    nft_if_connection(n, NF_CT_DESTINATION_PORT, NF_CMP_LTE, &to, sizeof to);
  }
  if (item->accept) nft_set_mark(n, mark);
  nft_verdict(n, NF_VERDICT_RETURN);
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

/// What the rules of now allow.
static void allowed_rule(struct nft *n, const char *chain, uint32_t mark) {
  nft_rule(n, chain);
  nft_if_mark(n, mark);
  nft_verdict(n, NF_VERDICT_ACCEPT);
  nft_rule_end(n);
}

static void jump_rule(struct nft *n, const char *chain, uint32_t states, const char *to) {
  nft_rule(n, chain);
  nft_if_state(n, states);
  nft_jump(n, to);
  nft_rule_end(n);
}

/// Tells who watches from outside of what comes here, if not too often. It changes nothing for the packet.
static void tell_rule(struct nft *n, const char *chain) {
  nft_rule(n, chain);
  nft_if_rarer_than(n, TOLD_PER_SECOND, TOLD_AT_ONCE);
  nft_trace(n);
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

static void put_judge(struct nft *n, const struct items *items, uint32_t mark) {
  for (size_t i = 0; i < items->count; i++) {
    const struct item *item = &items->all[i];
    if (item->from == 0) item_rule(n, item, 0, mark);
    else {
      item_rule(n, item, IPPROTO_TCP, mark);
      item_rule(n, item, IPPROTO_UDP, mark);
    }
  }
  nft_rule(n, judge);
  nft_set_mark(n, mark);
  nft_rule_end(n);
}

/// What is in no known state is no connection's, and dropped as the chain says.
static void put_out(struct nft *n, uint32_t mark, bool tells) {
  loopback_rule(n, out, false, false);
  neighbour_rule(n, out, 133, 136);
  allowed_rule(n, out, mark);
  jump_rule(n, out, NF_STATE_NEW, begun);
  jump_rule(n, out, NF_STATE_NEW | NF_STATE_ESTABLISHED | NF_STATE_RELATED, judge);
  allowed_rule(n, out, mark);
  if (tells) jump_rule(n, out, NF_STATE_NEW | NF_STATE_ESTABLISHED, denied);
  // An error of ICMP ends an attempt to connect, but no connection.
  nft_rule(n, out);
  nft_if_state(n, NF_STATE_ESTABLISHED);
  nft_if_meta8(n, NF_META_L4PROTO, IPPROTO_TCP);
  nft_reset(n);
  nft_rule_end(n);
  nft_rule(n, out);
  nft_if_state(n, NF_STATE_NEW | NF_STATE_ESTABLISHED | NF_STATE_RELATED);
  nft_reject(n);
  nft_rule_end(n);
}

/// Nothing but answers.
static void put_in(struct nft *n, uint32_t mark) {
  loopback_rule(n, in, true, false);
  neighbour_rule(n, in, 130, 136);
  allowed_rule(n, in, mark);
  jump_rule(n, in, NF_STATE_ESTABLISHED | NF_STATE_RELATED, judge);
  allowed_rule(n, in, mark);
  // What is said to it in turn ends the connection for the program that has it: a reset from here would be for the other end.
  nft_rule(n, in);
  nft_if_state(n, NF_STATE_ESTABLISHED);
  nft_if_meta8(n, NF_META_L4PROTO, IPPROTO_TCP);
  nft_verdict(n, NF_VERDICT_ACCEPT);
  nft_rule_end(n);
}

static void put_table(struct nft *n, bool tells) {
  nft_table(n, NF_FAMILY_INET, table, NETLINK_EXCL);
  nft_chain(n, raw_out, NF_LOCAL_OUT, NF_PRIORITY_RAW, NF_VERDICT_ACCEPT);
  nft_chain(n, raw_in, NF_PRE_ROUTING, NF_PRIORITY_RAW, NF_VERDICT_ACCEPT);
  nft_chain(n, out, NF_LOCAL_OUT, NF_PRIORITY_FILTER, NF_VERDICT_DROP);
  nft_chain(n, in, NF_LOCAL_IN, NF_PRIORITY_FILTER, NF_VERDICT_DROP);
  nft_inner_chain(n, begun);
  nft_inner_chain(n, full);
  nft_inner_chain(n, judge);
  loopback_rule(n, raw_out, false, true);
  loopback_rule(n, raw_in, true, true);
  // It goes on counting when the others are changed.
  nft_rule(n, begun);
  nft_if_more_than(n, MOST_CONNECTIONS);
  nft_jump(n, full);
  nft_rule_end(n);
  if (tells) tell_rule(n, full);
  nft_rule(n, full);
  nft_reject(n);
  nft_rule_end(n);
}

static int install_as(const struct items *items, bool is_new, bool tells) {
  static const char *const changing[] = {out, in, judge};
  struct nft n;
  uint32_t mark;
  if (getrandom(&mark, sizeof mark, 0) != sizeof mark) return errno;
  mark |= 1; // what has not been judged has 0
  int error = nft_begin(&n, FIXED_BYTES + items->count * 2 * ITEM_BYTES);
  if (error != 0) return error;
  if (is_new) put_table(&n, tells);
  else {
    nft_use(&n, NF_FAMILY_INET, table);
    for (size_t i = 0; i < sizeof changing / sizeof *changing; i++) nft_flush(&n, changing[i]);
  }
  if (tells) {
    // That which is there may be an earlier Warren's, without it.
    nft_inner_chain(&n, denied);
    nft_flush(&n, denied);
    tell_rule(&n, denied);
  }
  put_judge(&n, items, mark);
  put_out(&n, mark, tells);
  put_in(&n, mark);
  return nft_commit(&n);
}

/// Makes the table, or changes that which is there, in one step. 0 or an errno; ENOENT: there is none of ours. A kernel that can't
/// tell of what is denied denies it nevertheless.
static int install(const struct items *items, bool is_new) {
  int error = install_as(items, is_new, true);
  return error == 0 ? 0 : install_as(items, is_new, false);
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

/// 0 or an errno; the caller frees them.
static int parse_items(const char *text, struct items *items) {
  *items = (struct items){.all = calloc(MOST_ITEMS, sizeof *items->all)};
  if (items->all == NULL) return ENOMEM;
  for (const char *at = text; *at != 0;) {
    size_t length = strcspn(at, ",");
    if (items->count == MOST_ITEMS || !parse_item(at, length, &items->all[items->count++])) return EINVAL;
    at += length + (at[length] == ',');
  }
  return items->count > 0 ? 0 : EINVAL;
}

static int apply(const char *text, bool is_new) {
  struct items items;
  int error = parse_items(text, &items);
  if (error == 0) error = install(&items, is_new);
  free(items.all);
  return error;
}

/// The text in a file. NULL with errno; the caller frees it.
static char *read_items(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  char *text = fd < 0 ? NULL : malloc(MOST_TEXT + 1);
  ssize_t n = text == NULL ? -1 : read(fd, text, MOST_TEXT + 1);
  int error = n < 0 ? errno : n > MOST_TEXT ? EFBIG : 0;
  if (fd >= 0) close(fd);
  if (error == 0) text[n] = 0;
  else free(text);
  errno = error;
  return error == 0 ? text : NULL;
}

bool guard(const char *items) {
  char *text = *items == '/' ? read_items(items) : NULL;
  if (*items == '/' && text == NULL) return false;
  int error = apply(text == NULL ? items : text, true);
  free(text);
  errno = error;
  return error == 0 && drop_net_admin();
}

int guard_change(const char *pid, const char *start, const char *items) {
  enum { FAILED = 1, NO_GUARD = 3 };
  pid_t engine = getppid();
  int error = enter_network((pid_t)strtol(pid, NULL, 10), strtoull(start, NULL, 10)) ? 0 : errno;
  // Nothing of an engine that has gone may come after what the next one does.
  if (error == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0 || getppid() != engine)) error = ECANCELED;
  if (error == 0) error = apply(items, false);
  if (error == 0) return 0;
  dprintf(STDERR_FILENO, "warren-guest: changing rules of nf_tables: %s\n", strerror(error));
  return error == ENOENT ? NO_GUARD : FAILED;
}
