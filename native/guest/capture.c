// Transparent capture: a sandbox that has no network but lo gets routes that lead everything to lo, where nf_tables hands each
// new TCP connection, and all that goes to port 53, to sockets of ours. So programs that know no proxy need none: whatever
// address they connect to, we accept, and the address of our end says where they wanted to go.
//
// It is TPROXY and not NAT, which would look at every packet on lo and remember each connection for two minutes after its end,
// in a table that all of the host has only one limit for.
#include "capture.h"
#include "nftables.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// What of the kernel's interface is used, by its names there: musl comes without these headers.
enum { NETLINK_ROUTE_PROTOCOL = 0 }; // linux/netlink.h
enum { RTM_NEWLINK = 16, RTM_NEWADDR = 20, RTM_NEWROUTE = 24 }; // linux/rtnetlink.h
enum { RTA_OIF = 4, RTA_PREFSRC = 7, RT_TABLE_MAIN = 254, RTPROT_STATIC = 4, RTN_LOCAL = 2 };
enum { RT_SCOPE_UNIVERSE = 0, RT_SCOPE_HOST = 254 };
enum { IFA_ADDRESS = 1, IFA_LOCAL = 2 }; // linux/if_addr.h
enum { IFF_UP_FLAG = 1, LO_INDEX = 1 }; // of every network namespace, since it is the first
enum { CAPTURE_BACKLOG = 1024, ICMP_ECHO_REQUEST = 8, ICMPV6_ECHO_REQUEST = 128 };
enum { REQUEST_BYTES = 1024, RULES_BYTES = 32 << 10 };
enum { SYN = 2, ACK = 16, TCP_FLAGS_OFFSET = 13, DESTINATION_PORT_OFFSET = 2 };

enum { OWN_NETWORKS = 2 };

/// What differs between IPv4 and IPv6.
struct family {
  uint8_t number; // NF_FAMILY_IPV4, NF_FAMILY_IPV6: as AF_INET and AF_INET6
  uint32_t destination_offset;
  size_t address_bytes;
  unsigned char server[16], loopback[16]; // where sockets of ours are found
  /// Addresses that are the sandbox's own: the second is one that we add to lo.
  struct network {
    unsigned char address[16], mask[16];
  } own[OWN_NETWORKS];
  uint8_t icmp, echo_request;
};

#define WHOLE_IPV6 {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}

static const struct family families[] = {
  {
    .number = AF_INET,
    .destination_offset = 16,
    .address_bytes = 4,
    .server = {198, 18, 0, 2},
    .loopback = {127, 0, 0, 1},
    .own = {{{127}, {255}}, {{198, 18, 0, 1}, {255, 255, 255, 255}}},
    .icmp = IPPROTO_ICMP,
    .echo_request = ICMP_ECHO_REQUEST,
  },
  {
    .number = AF_INET6,
    .destination_offset = 24,
    .address_bytes = 16,
    // Of RFC 5180, which is for IPv6 what RFC 2544 is for IPv4.
    .server = {0x20, 0x01, 0, 2, [15] = 2},
    .loopback = {[15] = 1},
    .own = {{{[15] = 1}, WHOLE_IPV6}, {{0x20, 0x01, 0, 2, [15] = 1}, WHOLE_IPV6}},
    .icmp = IPPROTO_ICMPV6,
    .echo_request = ICMPV6_ECHO_REQUEST,
  },
};

// ---- addresses and routes

static int bring_lo_up(struct netlink *n) {
  struct {
    uint8_t family, pad;
    uint16_t type;
    int32_t index;
    uint32_t flags, change;
  } link = {.index = LO_INDEX, .flags = IFF_UP_FLAG, .change = IFF_UP_FLAG}; // struct ifinfomsg
  netlink_begin(n, RTM_NEWLINK, 0, &link, sizeof link);
  return netlink_send(n);
}

/// Libraries that look which families this machine has (AI_ADDRCONFIG) count no loopback address.
static int add_own_address(struct netlink *n, const struct family *f) {
  struct {
    uint8_t family, prefix, flags, scope;
    uint32_t index;
  } address = {.family = f->number, .scope = RT_SCOPE_UNIVERSE, .index = LO_INDEX}; // struct ifaddrmsg
  address.prefix = (uint8_t)(f->address_bytes * 8);
  netlink_begin(n, RTM_NEWADDR, NETLINK_CREATE, &address, sizeof address);
  netlink_put(n, IFA_LOCAL, f->own[1].address, f->address_bytes);
  netlink_put(n, IFA_ADDRESS, f->own[1].address, f->address_bytes);
  return netlink_send(n);
}

static int route_all_to_lo(struct netlink *n, const struct family *f) {
  struct {
    uint8_t family, to_bits, from_bits, tos, table, protocol, scope, type;
    uint32_t flags;
  } route = {.family = f->number, .table = RT_TABLE_MAIN, .protocol = RTPROT_STATIC, .type = RTN_LOCAL}; // struct rtmsg
  route.scope = f->number == AF_INET ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
  netlink_begin(n, RTM_NEWROUTE, NETLINK_CREATE, &route, sizeof route);
  netlink_put32(n, RTA_OIF, LO_INDEX);
  // Else a program's own address would be the one that it connects to.
  if (f->number == AF_INET) netlink_put32(n, RTA_PREFSRC, htonl(OWN_ADDRESS));
  return netlink_send(n);
}

// ---- rules

static void if_port(struct nft *n, uint16_t port) {
  uint16_t value = htons(port);
  nft_if_payload(n, NF_TRANSPORT_HEADER, DESTINATION_PORT_OFFSET, NF_CMP_EQ, &value, sizeof value);
}

static void if_new_connection(struct nft *n) {
  static const uint8_t flags = SYN, mask = SYN | ACK;
  nft_if_meta8(n, NF_META_L4PROTO, IPPROTO_TCP);
  nft_if_masked(n, NF_TRANSPORT_HEADER, TCP_FLAGS_OFFSET, &flags, &mask, sizeof flags);
}

static void if_own(struct nft *n, const struct family *f, const struct network *own) {
  nft_if_masked(n, NF_NETWORK_HEADER, f->destination_offset, own->address, own->mask, f->address_bytes);
}

static void end_rule(struct nft *n, int32_t verdict) {
  nft_verdict(n, verdict);
  nft_rule_end(n);
}

static void put_rules(struct nft *n, const struct family *f, const char *chain, uint16_t port) {
  // A name server that a program inside runs for itself is its own affair.
  for (size_t i = 0; i < OWN_NETWORKS; i++) {
    static const uint8_t protocols[] = {IPPROTO_UDP, IPPROTO_TCP};
    for (size_t k = 0; k < sizeof protocols; k++) {
      nft_rule(n, chain);
      if_own(n, f, &f->own[i]);
      nft_if_meta8(n, NF_META_L4PROTO, protocols[k]);
      if_port(n, DNS_PORT);
      nft_if_socket(n);
      end_rule(n, NF_VERDICT_ACCEPT);
    }
  }
  nft_rule(n, chain);
  nft_if_meta8(n, NF_META_L4PROTO, IPPROTO_UDP);
  if_port(n, DNS_PORT);
  nft_tproxy(n, f->server, f->address_bytes, DNS_PORT);
  end_rule(n, NF_VERDICT_ACCEPT);
  nft_rule(n, chain);
  if_new_connection(n);
  if_port(n, DNS_PORT);
  nft_tproxy(n, f->loopback, f->address_bytes, port + 1);
  end_rule(n, NF_VERDICT_ACCEPT);
  for (size_t i = 0; i < OWN_NETWORKS; i++) {
    nft_rule(n, chain);
    if_own(n, f, &f->own[i]);
    end_rule(n, NF_VERDICT_ACCEPT);
  }
  nft_rule(n, chain);
  if_new_connection(n);
  nft_tproxy(n, f->loopback, f->address_bytes, port);
  end_rule(n, NF_VERDICT_ACCEPT);
  // lo would answer, and nobody else can.
  nft_rule(n, chain);
  nft_if_meta8(n, NF_META_L4PROTO, f->icmp);
  nft_if_payload(n, NF_TRANSPORT_HEADER, 0, NF_CMP_EQ, &f->echo_request, sizeof f->echo_request);
  end_rule(n, NF_VERDICT_DROP);
}

/// All of them or none. 0 or an errno.
static int add_rules(bool has_ipv6, uint16_t port) {
  static const char name[] = "warren";
  struct nft n;
  int error = nft_begin(&n, RULES_BYTES);
  if (error != 0) return error;
  for (size_t i = 0; i < (has_ipv6 ? 2 : 1); i++) {
    nft_table(&n, families[i].number, name, 0);
    nft_chain(&n, name, NF_PRE_ROUTING, NF_PRIORITY_MANGLE, NF_VERDICT_ACCEPT);
    put_rules(&n, &families[i], name, port);
  }
  return nft_commit(&n);
}

// ---- sockets

static bool set(int fd, int level, int option) { return setsockopt(fd, level, option, &(int){1}, sizeof(int)) == 0; }

/// IP_TRANSPARENT needs the capability only now: it lets a socket take, and speak from, addresses that nobody here has.
static bool bind_transparent(int fd, int family, const unsigned char *address, uint16_t port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  if (address != NULL && family == AF_INET) memcpy(&a.sin_addr, address, sizeof a.sin_addr);
  if (address != NULL && family == AF_INET6) memcpy(&a6.sin6_addr, address, sizeof a6.sin6_addr);
  if (!set(fd, SOL_SOCKET, SO_REUSEADDR) || !set(fd, SOL_IP, IP_TRANSPARENT)) return false;
  if (family == AF_INET) return bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
  return bind(fd, (struct sockaddr *)&a6, sizeof a6) == 0;
}

/// For both families where the kernel has both.
static int open_listener(uint16_t port) {
  int family = AF_INET6;
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 && errno == EAFNOSUPPORT) fd = socket(family = AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  int zero = 0;
  if (family == AF_INET6) setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
  if (bind_transparent(fd, family, NULL, port) && listen(fd, CAPTURE_BACKLOG) == 0) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

/// Each query says whom it was for, so that the answer comes from there.
static int open_server(const struct family *f) {
  int fd = socket(f->number, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  bool tells = f->number == AF_INET ? set(fd, SOL_IP, IP_PKTINFO)
                                    : set(fd, SOL_IPV6, IPV6_RECVPKTINFO) && set(fd, SOL_IPV6, IPV6_V6ONLY);
  if (tells && bind_transparent(fd, f->number, f->server, DNS_PORT)) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

/// Gives a socket its number.
static bool keep(int fd, int number) {
  if (fd < 0) return false;
  bool ok = fd == number || dup3(fd, number, O_CLOEXEC) == number;
  int error = errno;
  if (fd != number) close(fd);
  errno = error;
  return ok;
}

static void close_sockets(void) {
  for (int fd = FD_CAPTURE; fd < FD_DNS_UDP + 2; fd++) close(fd);
}

static bool open_sockets(uint16_t port, bool *has_ipv6) {
  if (!keep(open_listener(port), FD_CAPTURE) || !keep(open_listener(port + 1), FD_DNS_TCP)) return false;
  if (!keep(open_server(&families[0]), FD_DNS_UDP)) return false;
  int fd = open_server(&families[1]);
  *has_ipv6 = fd >= 0;
  return fd < 0 ? errno == EAFNOSUPPORT : keep(fd, FD_DNS_UDP + 1);
}

// ---- all of it

/// 0 or an errno, with what failed. Routes come last: until all the rest is there, what is sent goes nowhere.
static int set_up(uint16_t port, const char **what) {
  struct netlink n;
  bool has_ipv6;
  *what = "sockets";
  if (!open_sockets(port, &has_ipv6)) return errno;
  *what = "nf_tables";
  int error = add_rules(has_ipv6, port);
  if (error != 0) return error;
  *what = "lo";
  error = netlink_open(&n, NETLINK_ROUTE_PROTOCOL, REQUEST_BYTES);
  if (error != 0) return error;
  error = bring_lo_up(&n);
  if (error == 0) error = add_own_address(&n, &families[0]);
  if (error == 0) error = route_all_to_lo(&n, &families[0]);
  // Where IPv6 is switched off, nothing leaves by it, and nothing has to be captured.
  if (error == 0 && has_ipv6 && add_own_address(&n, &families[1]) == 0) route_all_to_lo(&n, &families[1]);
  netlink_close(&n);
  return error;
}

static bool is_open;

bool has_capture(void) { return is_open; }

bool capture_open(uint16_t port, const char **what) {
  int error = set_up(port, what);
  if (error == 0 && !dns_open()) {
    *what = "memory";
    error = errno;
  }
  if (error != 0) close_sockets();
  is_open = error == 0;
  errno = error;
  return is_open;
}

/// IPv4, also as IPv6 has it. False: it is another.
static bool take_ipv4(const struct sockaddr_storage *any, uint32_t *address) {
  const struct sockaddr_in *a = (const struct sockaddr_in *)any;
  const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)any;
  if (any->ss_family == AF_INET) memcpy(address, &a->sin_addr, sizeof *address);
  else if (IN6_IS_ADDR_V4MAPPED(&a6->sin6_addr)) memcpy(address, a6->sin6_addr.s6_addr + 12, sizeof *address);
  else return false;
  *address = ntohl(*address);
  return true;
}

/// Whom a client meant, by the address of our end. False when it was us.
static bool ask(int client, struct wanted *wanted) {
  struct sockaddr_storage any = {0};
  socklen_t bytes = sizeof any;
  uint32_t address;
  bool is_own = false;
  if (getsockname(client, (struct sockaddr *)&any, &bytes) != 0) return false;
  const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)&any;
  // The port is in the same place for both.
  wanted->port = ntohs(a6->sin6_port);
  if (!take_ipv4(&any, &address)) {
    for (size_t i = 0; i < OWN_NETWORKS; i++) is_own = is_own || memcmp(&a6->sin6_addr, families[1].own[i].address, 16) == 0;
    return !is_own && inet_ntop(AF_INET6, &a6->sin6_addr, wanted->host, sizeof wanted->host) != NULL;
  }
  if (address >> 24 == IN_LOOPBACKNET || address == OWN_ADDRESS) return false;
  const char *name = dns_name(address);
  struct in_addr in = {.s_addr = htonl(address)};
  if (name == NULL) return inet_ntop(AF_INET, &in, wanted->host, sizeof wanted->host) != NULL;
  snprintf(wanted->host, sizeof wanted->host, "%s", name);
  return true;
}

bool capture_serve(void) {
  static struct door door = {.ask = ask};
  dns_resume();
  return nameserver_open() && relay_open_door(&door, FD_CAPTURE);
}

int capture_check(void) {
  const char *what = "a namespace";
  enum { SOME_PORT = 3129 };
  // As the sandbox's will be, where this host gives such namespaces to us.
  bool alone = unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 || unshare(CLONE_NEWNET) == 0;
  if (alone && capture_open(SOME_PORT, &what)) return 0;
  dprintf(STDERR_FILENO, "%s: %s\n", what, strerror(errno));
  return 1;
}
