// nf_tables rules of this network namespace, spoken over netlink: what guard.c and capture.c need of it. A batch takes effect
// as a whole or not at all. Constants are those of linux/netfilter/nf_tables.h, which musl's headers don't have.
#ifndef WARREN_NFTABLES_H
#define WARREN_NFTABLES_H

#include "netlink.h"

enum { NF_FAMILY_INET = 1, NF_FAMILY_IPV4 = 2, NF_FAMILY_IPV6 = 10 }; // also values of NF_META_NFPROTO, but for the first
enum { NF_PRE_ROUTING = 0, NF_LOCAL_IN = 1, NF_LOCAL_OUT = 3 };
enum { NF_PRIORITY_RAW = -300, NF_PRIORITY_MANGLE = -150, NF_PRIORITY_FILTER = 0 };
enum { NF_VERDICT_DROP = 0, NF_VERDICT_ACCEPT = 1, NF_VERDICT_RETURN = -5 };
enum { NF_META_IIFTYPE = 8, NF_META_OIFTYPE = 9, NF_META_NFPROTO = 15, NF_META_L4PROTO = 16 };
enum { NF_NETWORK_HEADER = 1, NF_TRANSPORT_HEADER = 2 };
enum { NF_CMP_EQ = 0, NF_CMP_LTE = 3, NF_CMP_GTE = 5 };
enum { NF_STATE_ESTABLISHED = 2, NF_STATE_RELATED = 4, NF_STATE_NEW = 8 };
// Of a connection, as the packet that began it has them.
enum { NF_CT_PROTOCOL = 10, NF_CT_DESTINATION_PORT = 12, NF_CT_DESTINATION_IPV4 = 20, NF_CT_DESTINATION_IPV6 = 22 };

// What the kernel says of packets with nft_trace(): the type of its messages, their group, and attributes of them.
enum { NF_NETLINK_PROTOCOL = 12, NF_TRACE = 10 << 8 | 17, NF_TRACE_GROUP = 9 };
enum { NF_TRACE_TABLE = 1, NF_TRACE_CHAIN = 2, NF_TRACE_TYPE = 4, NF_TRACE_NETWORK = 8, NF_TRACE_TRANSPORT = 9, NF_TRACE_RULE = 3 };

struct nft {
  struct netlink netlink;
  // What is written next belongs to these.
  uint8_t family;
  const char *table;
  size_t expressions; // of the rule that is being written
};

/// Begins a batch of at most `size` bytes. 0 or an errno; nft_commit() has to follow when it is 0.
int nft_begin(struct nft *n, size_t size);
/// A table, to which what follows belongs. `flags`: NETLINK_EXCL makes one that is there already an error.
void nft_table(struct nft *n, uint8_t family, const char *table, uint16_t flags);
/// What follows belongs to a table that is there.
void nft_use(struct nft *n, uint8_t family, const char *table);
/// A base chain of type filter. `policy` is a verdict.
void nft_chain(struct nft *n, const char *chain, uint32_t hook, int32_t priority, uint32_t policy);
/// A chain that rules jump to.
void nft_inner_chain(struct nft *n, const char *chain);
/// Removes all rules of a chain.
void nft_flush(struct nft *n, const char *chain);
/// Opens a rule at the end of a chain; what follows are its expressions, until nft_rule_end().
void nft_rule(struct nft *n, const char *chain);
void nft_rule_end(struct nft *n);

/// Goes on when the packet's property is the value.
void nft_if_meta(struct nft *n, uint32_t key, const void *value, size_t bytes);
void nft_if_meta8(struct nft *n, uint32_t key, uint8_t value);
/// Goes on when these bytes compare to the value.
void nft_if_payload(struct nft *n, uint32_t header, uint32_t offset, uint32_t comparison, const void *value, size_t bytes);
/// Goes on when these bytes, as far as `mask` has bits, are `value`.
void nft_if_masked(struct nft *n, uint32_t header, uint32_t offset, const void *value, const void *mask, size_t bytes);
/// Goes on when the connection is in one of these states.
void nft_if_state(struct nft *n, uint32_t states);
/// Goes on when the connection's property compares to the value, or, as far as `mask` has bits, is it. Not at all for what is
/// no connection, or has no such property.
void nft_if_connection(struct nft *n, uint32_t key, uint32_t comparison, const void *value, size_t bytes);
void nft_if_connection_masked(struct nft *n, uint32_t key, const void *value, const void *mask, size_t bytes);
/// Goes on when the connection has this mark.
void nft_if_mark(struct nft *n, uint32_t mark);
void nft_set_mark(struct nft *n, uint32_t mark);
/// Goes on when more connections than that have come here and have not ended.
void nft_if_more_than(struct nft *n, uint32_t connections);
/// Goes on for so many packets a second, and at once for `burst` of them.
void nft_if_rarer_than(struct nft *n, uint64_t per_second, uint32_t burst);
/// Goes on when the packet has a socket that it would go to by itself.
void nft_if_socket(struct nft *n);
void nft_verdict(struct nft *n, int32_t verdict);
/// On with the rules of that chain, and then with those after this one.
void nft_jump(struct nft *n, const char *chain);
/// Ends the packet with an ICMP error: administratively prohibited.
void nft_reject(struct nft *n);
/// Ends the packet, of TCP, and its connection with a reset for whoever sent it.
void nft_reset(struct nft *n);
/// The kernel tells those who watch this network namespace of the rules that the packet meets, this one first; see denied.c.
void nft_trace(struct nft *n);
/// Connections of this packet are not tracked.
void nft_notrack(struct nft *n);
/// Gives the packet to our socket at this address and port. Without one the rule does not hold.
void nft_tproxy(struct nft *n, const void *address, size_t bytes, uint16_t port);

/// Sends the batch and waits for the kernel's answer. 0 or an errno. The batch is gone either way.
int nft_commit(struct nft *n);

/// Whether there is such a chain: 0, ENOENT, or another errno.
int nft_look_up_chain(uint8_t family, const char *table, const char *chain);

#endif
