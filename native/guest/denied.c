// What the guard of a sandbox with open network denies, told to the host by this program, run there: the kernel says it to
// whoever has the right to know all of a network namespace, which nobody inside has. The guard's own rules bound how often
// it does, so that a flood inside costs little here.
#include "enter.h"
#include "guest.h"
#include "nftables.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

// linux/netlink.h, and of packets what is looked at.
enum { SOL_NETLINK_LEVEL = 270, ADD_MEMBERSHIP = 1, NO_ENOBUFS = 5, TYPE_MASK = 0x3fff, ALIGNMENT = 4 };
enum { IPV4_BYTES = 20, IPV4_PROTOCOL = 9, IPV4_TO = 16, IPV6_BYTES = 40, IPV6_PROTOCOL = 6, IPV6_TO = 24 };
enum { TRANSPORT_BYTES = 8, PORT_TO = 2, ECHO_ID = 4 };
enum { ECHO_REQUEST = 8, ECHO_REQUEST_IPV6 = 128 };
enum { MESSAGE_BYTES = 4096, MOST_AT_ONCE = 64 };
// Of one flow, such as a connection that is tried again by the kernel, one packet within this time is told.
enum { FLOWS = 64, QUIET_S = 5, FROM_BYTES = 2 };

/// struct sockaddr_nl
struct netlink_address {
  uint16_t family, pad;
  uint32_t pid, groups;
};

struct message {
  uint32_t bytes;
  uint16_t type, flags;
  uint32_t sequence, pid;
  unsigned char family, version;
  uint16_t resource;
}; // struct nlmsghdr, struct nfgenmsg

struct span {
  const unsigned char *at;
  size_t bytes;
};

struct denial {
  const char *chain, *protocol;
  unsigned char to[16];
  bool is_ipv6;
  unsigned port; // 0: of a protocol without
  unsigned from; // the program's port, or what tells a program's echo requests from another's
};

static bool says(struct span s, const char *text) { return s.bytes == strlen(text) + 1 && memcmp(s.at, text, s.bytes) == 0; }

/// The attributes of a message, by their types up to `most`. False when they are not what the kernel writes.
static bool split(const unsigned char *at, size_t bytes, struct span *found, size_t most) {
  while (bytes > 0) {
    uint16_t head[2];
    if (bytes < sizeof head) return false;
    memcpy(head, at, sizeof head);
    size_t length = head[0], type = head[1] & TYPE_MASK;
    if (length < sizeof head || length > bytes) return false;
    if (type <= most) found[type] = (struct span){at + sizeof head, length - sizeof head};
    length = (length + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (length > bytes) length = bytes;
    at += length;
    bytes -= length;
  }
  return true;
}

static unsigned be16(const unsigned char *at) { return (unsigned)at[0] << 8 | at[1]; }

/// Where a packet goes. Both headers hold what a program inside chose. False for what is not told of: whatever programs can't
/// send, such as the kernel's own reports of groups, and what has headers between these two.
static bool parse_packet(struct span network, struct span transport, struct denial *d) {
  unsigned version = network.bytes > 0 ? network.at[0] >> 4 : 0;
  if (version != 4 && version != 6) return false;
  bool is_ipv6 = version == 6;
  if (network.bytes < (is_ipv6 ? IPV6_BYTES : IPV4_BYTES) || transport.bytes < TRANSPORT_BYTES) return false;
  unsigned protocol = network.at[is_ipv6 ? IPV6_PROTOCOL : IPV4_PROTOCOL];
  if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
    d->protocol = protocol == IPPROTO_TCP ? "tcp" : "udp";
    d->from = be16(transport.at);
    d->port = be16(transport.at + PORT_TO);
  } else {
    unsigned icmp = is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP, request = is_ipv6 ? ECHO_REQUEST_IPV6 : ECHO_REQUEST;
    if (protocol != icmp || transport.at[0] != request) return false;
    d->protocol = "icmp";
    d->from = be16(transport.at + ECHO_ID);
  }
  d->is_ipv6 = is_ipv6;
  memcpy(d->to, network.at + (is_ipv6 ? IPV6_TO : IPV4_TO), is_ipv6 ? 16 : 4);
  return true;
}

/// What one message of the kernel tells. False when it is about nothing that the guard denies.
static bool parse_message(const unsigned char *bytes, size_t length, struct denial *d) {
  struct message m;
  *d = (struct denial){0};
  if (length < sizeof m) return false;
  memcpy(&m, bytes, sizeof m);
  if (m.type != NF_TRACE || m.bytes < sizeof m || m.bytes > length) return false;
  struct span found[NF_TRACE_TRANSPORT + 1] = {{NULL, 0}};
  if (!split(bytes + sizeof m, m.bytes - sizeof m, found, NF_TRACE_TRANSPORT)) return false;
  static const unsigned char rule[] = {0, 0, 0, NF_TRACE_RULE};
  struct span type = found[NF_TRACE_TYPE], chain = found[NF_TRACE_CHAIN];
  if (type.bytes != sizeof rule || memcmp(type.at, rule, sizeof rule) != 0 || !says(found[NF_TRACE_TABLE], GUARD_TABLE)) return false;
  d->chain = says(chain, GUARD_DENIED) ? GUARD_DENIED : says(chain, GUARD_FULL) ? GUARD_FULL : NULL;
  return d->chain != NULL && parse_packet(found[NF_TRACE_NETWORK], found[NF_TRACE_TRANSPORT], d);
}

/// Whether a packet of this flow has been told of just now; it has from now on.
static bool is_known(const struct denial *d) {
  static struct {
    struct denial denial;
    uint64_t told_ns; // 0: none
  } flows[FLOWS];
  uint64_t now = now_ns();
  size_t oldest = 0;
  for (size_t i = 0; i < FLOWS; i++) {
    const struct denial *known = &flows[i].denial;
    if (flows[i].told_ns < flows[oldest].told_ns) oldest = i;
    if (flows[i].told_ns == 0 || known->chain != d->chain || known->protocol != d->protocol || known->port != d->port ||
        known->from != d->from || known->is_ipv6 != d->is_ipv6 || memcmp(known->to, d->to, sizeof d->to) != 0)
      continue;
    if (now - flows[i].told_ns < QUIET_S * 1000000000ull) return true;
    oldest = i;
    break;
  }
  flows[oldest].denial = *d;
  flows[oldest].told_ns = now;
  return false;
}

/// Tells all that is there, which is no more than the guard's rules let the kernel say.
static void tell(int trace) {
  unsigned char bytes[MESSAGE_BYTES];
  struct denial d;
  for (;;) {
    struct netlink_address from = {0};
    ssize_t n = recvfrom(trace, bytes, sizeof bytes, MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&from, &(socklen_t){sizeof from});
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;
    // The kernel's number is 0.
    if (from.pid != 0 || (size_t)n > sizeof bytes || !parse_message(bytes, (size_t)n, &d) || is_known(&d)) continue;
    char to[INET6_ADDRSTRLEN];
    if (inet_ntop(d.is_ipv6 ? AF_INET6 : AF_INET, d.to, to, sizeof to) == NULL) continue;
    if (dprintf(STDOUT_FILENO, "%s %s %s %u\n", d.chain, d.protocol, to, d.port) < 0) _exit(0);
  }
}

/// Answers so many bytes of stdin, after what has been denied before them. It ends with stdin.
static void answer(int trace) {
  char questions[MOST_AT_ONCE];
  ssize_t n = read(STDIN_FILENO, questions, sizeof questions);
  if (n < 0 && errno == EINTR) return;
  if (n <= 0) _exit(0);
  tell(trace);
  while (n-- > 0)
    if (dprintf(STDOUT_FILENO, ".\n") < 0) _exit(0);
}

/// Hears what the kernel says of packets in this network namespace. -1 with errno.
static int open_trace(void) {
  // With a number of its own, that is: the kernel's is 0, and nobody hears what it said itself.
  const struct netlink_address own = {.family = AF_NETLINK};
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NF_NETLINK_PROTOCOL), group = NF_TRACE_GROUP, yes = 1;
  if (fd < 0) return -1;
  // What comes while nobody reads is lost, without an error that would have to be read.
  setsockopt(fd, SOL_NETLINK_LEVEL, NO_ENOBUFS, &yes, sizeof yes);
  if (bind(fd, (const struct sockaddr *)&own, sizeof own) == 0 && setsockopt(fd, SOL_NETLINK_LEVEL, ADD_MEMBERSHIP, &group, sizeof group) == 0)
    return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

/// Nothing is left of what this program may do but to read and write what it has open.
static bool give_up_rights(void) {
  struct {
    uint32_t version;
    int pid;
  } head = {0x20080522, 0}; // version 3
  struct {
    uint32_t effective, permitted, inheritable;
  } none[2] = {{0}};
  enum { DESCRIPTORS = 3 }; // as poll() waits for; those that are open stay
  const struct rlimit files = {DESCRIPTORS, DESCRIPTORS}, nothing = {0, 0};
  return setrlimit(RLIMIT_NOFILE, &files) == 0 && setrlimit(RLIMIT_CORE, &nothing) == 0 && setrlimit(RLIMIT_FSIZE, &nothing) == 0 &&
         prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && syscall(SYS_capset, &head, none) == 0;
}

_Noreturn static void watch_guard(int trace, int process) {
  dprintf(STDOUT_FILENO, "ready\n");
  for (;;) {
    struct pollfd p[] = {{.fd = trace, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}, {.fd = process, .events = POLLIN}};
    if (poll(p, sizeof p / sizeof *p, -1) < 0) continue;
    if (p[0].revents != 0) tell(trace);
    if (p[1].revents != 0) answer(trace);
    if (p[2].revents != 0) _exit(0);
  }
}

int guard_watch(const char *pid, const char *start) {
  enum { FAILED = 1, TELLS_NOTHING = 3 };
  pid_t engine = getppid(), guest = (pid_t)strtol(pid, NULL, 10);
  // Another process's, if that is what the number means by now: one that has ended, when the right one has it next.
  int process = (int)syscall(SYS_pidfd_open, guest, 0), trace = -1;
  int error = process >= 0 && enter_network(guest, strtoull(start, NULL, 10)) ? 0 : errno;
  if (error == 0 && (error = nft_look_up_chain(NF_FAMILY_INET, GUARD_TABLE, GUARD_DENIED)) == ENOENT) return TELLS_NOTHING;
  if (error == 0 && (trace = open_trace()) < 0) error = errno;
  if (error == 0 && !give_up_rights()) error = errno;
  // Last, since a change of rights takes it away.
  if (error == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0 || getppid() != engine)) error = ECANCELED;
  if (error == 0) watch_guard(trace, process);
  dprintf(STDERR_FILENO, "warren-guest: watching rules of nf_tables: %s\n", strerror(error));
  return FAILED;
}
