/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Events for operators. There is no event for a redirection that succeeds. */
#ifndef SIDETRACK_EVENT_H
#define SIDETRACK_EVENT_H

/* Copies the name of a task's executable, without its folders; nothing for a kernel thread. */
static __always_inline void executable_name(struct task_struct *task, char *name)
{
	struct file *file = task->mm->exe_file;

	if (file)
		bpf_probe_read_kernel_str(name, SIDETRACK_EXECUTABLE_NAME_SIZE,
					  file->f_path.dentry->d_name.name);
}

/*
 * Describes the program: that of the endpoint, if there is one, or else the current process. If
 * neither is the connection's program, it is unknown.
 */
static __always_inline void event_identify(struct sidetrack_event *e, const struct connection *c,
					   const struct sidetrack_endpoint *endpoint)
{
	/* Read from the task: before Linux 6.10, some program types have no helpers for these. */
	struct task_struct *task = bpf_get_current_task_btf();

	if (endpoint) {
		e->pid = endpoint->pid;
		e->uid = endpoint->program.uid;
		__builtin_memcpy(e->comm, endpoint->comm, sizeof(e->comm));
		__builtin_memcpy(e->executable, endpoint->executable, sizeof(e->executable));
		return;
	}
	if (c->not_by_current)
		return;
	e->pid = engine_pid(task);
	e->uid = task->cred->uid.val;
	bpf_probe_read_kernel(e->comm, sizeof(e->comm), task->comm);
	executable_name(task, e->executable);
}

/* Without a connection, which a request to classify does not have, there is no event. */
__noinline int event_emit(__u32 kind, const struct connection *c, __u64 filter_id, __u32 service,
			  const struct sidetrack_endpoint *endpoint)
{
	struct sidetrack_event *e;

	if (!c)
		return 0;
	e = bpf_ringbuf_reserve(&sidetrack_events, sizeof(*e), 0);
	if (!e) {
		count(SIDETRACK_COUNT_EVENTS_DROPPED);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_ns();
	e->filter_id = filter_id;
	e->flow_id = c->flow_id;
	e->kind = kind;
	e->service = service;
	event_identify(e, c, endpoint);
	__builtin_memcpy(e->remote_addr, c->remote.bytes, sizeof(e->remote_addr));
	e->remote_port = c->port;
	__builtin_memcpy(e->local_addr, c->local.bytes, sizeof(e->local_addr));
	e->local_port = c->local_port;
	e->protocol = c->protocol;
	e->family = c->family;
	e->layer = c->layer;
	e->generation = c->generation;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

#endif /* SIDETRACK_EVENT_H */
