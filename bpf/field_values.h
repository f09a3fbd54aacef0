/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Field values: the properties of a connection that the conditions of a layer test. */
#ifndef SIDETRACK_FIELD_VALUES_H
#define SIDETRACK_FIELD_VALUES_H

#define WANTS(field) (1U << SIDETRACK_FIELD_##field)
#define WANTS_CGROUPS (0xffU << SIDETRACK_FIELD_CGROUP_LEVELS)
#define WANTS_CURRENT_CGROUPS (0xffU << SIDETRACK_FIELD_CURRENT_CGROUP_LEVELS)
#define WANTS_PROGRAM                                                                              \
	(WANTS(APP) | WANTS(USER) | WANTS(CGROUP) | WANTS_CGROUPS | WANTS(CURRENT_APP) |           \
	 WANTS(CURRENT_USER) | WANTS(CURRENT_CGROUP) | WANTS_CURRENT_CGROUPS)

static __always_inline void field_set(struct sidetrack_scratch *scratch, __u32 field, __u64 value)
{
	scratch->values[field & (SIDETRACK_FIELDS - 1)][0] = 0;
	scratch->values[field & (SIDETRACK_FIELDS - 1)][1] = value;
}

static __always_inline void field_set_address(struct sidetrack_scratch *scratch, __u32 field,
					      const union address *address)
{
	scratch->values[field & (SIDETRACK_FIELDS - 1)][0] = bpf_be64_to_cpu(address->halves[0]);
	scratch->values[field & (SIDETRACK_FIELDS - 1)][1] = bpf_be64_to_cpu(address->halves[1]);
}

static __always_inline __u32 address_type(const union address *a, __u32 family)
{
	__u32 v4 = bpf_ntohl(a->words[3]);

	if (family == AF_INET)
		return !v4		 ? SIDETRACK_ADDRESS_UNSPECIFIED :
		       v4 >> 24 == 127	 ? SIDETRACK_ADDRESS_LOOPBACK :
		       v4 >> 28 == 0xe	 ? SIDETRACK_ADDRESS_MULTICAST :
		       v4 == 0xffffffffU ? SIDETRACK_ADDRESS_BROADCAST :
					   SIDETRACK_ADDRESS_UNICAST;
	return address_is_zero(a)      ? SIDETRACK_ADDRESS_UNSPECIFIED :
	       address_is_loopback6(a) ? SIDETRACK_ADDRESS_LOOPBACK :
	       a->bytes[0] == 0xff     ? SIDETRACK_ADDRESS_MULTICAST :
					 SIDETRACK_ADDRESS_UNICAST;
}

#define WANTS_LOCAL (WANTS(LOCAL_ADDRESS) | WANTS(LOCAL_ADDRESS_TYPE) | WANTS(LOCAL_PORT))

/*
 * The fields of the connection itself. Those of its local end are only set if some condition tests
 * them, since few policies do; the others are always set.
 */
static __always_inline void fields_of_connection(struct sidetrack_scratch *scratch,
						 const struct connection *c, __u32 wants,
						 __u32 flags)
{
	__u32 remote_type = address_type(&c->remote, c->family);

	if (remote_type == SIDETRACK_ADDRESS_LOOPBACK)
		flags |= SIDETRACK_FLAG_LOOPBACK;
	field_set(scratch, SIDETRACK_FIELD_FLAGS, flags);
	field_set_address(scratch, SIDETRACK_FIELD_REMOTE_ADDRESS, &c->remote);
	field_set(scratch, SIDETRACK_FIELD_REMOTE_PORT, bpf_ntohs(c->port));
	field_set(scratch, SIDETRACK_FIELD_DESTINATION_ADDRESS_TYPE, remote_type);
	field_set(scratch, SIDETRACK_FIELD_PROTOCOL, c->protocol);
	field_set(scratch, SIDETRACK_FIELD_DIRECTION, c->inbound);
	if (!(wants & WANTS_LOCAL))
		return;
	field_set_address(scratch, SIDETRACK_FIELD_LOCAL_ADDRESS, &c->local);
	field_set(scratch, SIDETRACK_FIELD_LOCAL_PORT, bpf_ntohs(c->local_port));
	field_set(scratch, SIDETRACK_FIELD_LOCAL_ADDRESS_TYPE, address_type(&c->local, c->family));
}

/* Offsets from the fields of the original program to those of either program. */
#define ORIGINAL_PROGRAM 0
#define CURRENT_PROGRAM 1

/*
 * The fields of one program. `current` is ORIGINAL_PROGRAM or CURRENT_PROGRAM, and `levels` is the
 * first of that program's fields for the levels of cgroups.
 */
static __always_inline void fields_of_program(struct sidetrack_scratch *scratch,
					      const struct sidetrack_program *p, __u32 current,
					      __u32 levels)
{
	__u32 app = SIDETRACK_FIELD_APP + current;

	if (current == ORIGINAL_PROGRAM)
		scratch->search.mode.elevated = p->flags & SIDETRACK_PROGRAM_ELEVATED;
	scratch->values[app & (SIDETRACK_FIELDS - 1)][0] = p->device;
	scratch->values[app & (SIDETRACK_FIELDS - 1)][1] = p->inode;
	field_set(scratch, SIDETRACK_FIELD_USER + current, p->uid);
	field_set(scratch, SIDETRACK_FIELD_CGROUP + current, p->cgroup_id);
	for (__u32 i = 0; i < SIDETRACK_CGROUP_LEVELS_MAX; i++)
		field_set(scratch, levels + i, p->cgroups[i]);
}

/*
 * The fields of the current program, and of the original one. Behind a proxy, that is the parent
 * flow's, `original`; if that is NULL, the two are the same.
 */
static __always_inline void fields_of_task(struct sidetrack_scratch *scratch, __u32 wants,
					   const struct sidetrack_program *original)
{
	if (!(wants & WANTS_PROGRAM))
		return;
	program_read(&scratch->program);
	fields_of_program(scratch, original ? original : &scratch->program, ORIGINAL_PROGRAM,
			  SIDETRACK_FIELD_CGROUP_LEVELS);
	fields_of_program(scratch, &scratch->program, CURRENT_PROGRAM,
			  SIDETRACK_FIELD_CURRENT_CGROUP_LEVELS);
}

/* The fields that the conditions of a layer test: bit n is field n. */
static __always_inline __u32 layer_wants(void *policy, __u32 layer)
{
	struct sidetrack_layer *l = policy_line(policy, SIDETRACK_LAYER_LINE + layer);

	return l ? l->wants : 0;
}

#endif /* SIDETRACK_FIELD_VALUES_H */
