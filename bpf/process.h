/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Process ids as the engine sees them: a process has another id in each PID namespace. */
#ifndef SIDETRACK_PROCESS_H
#define SIDETRACK_PROCESS_H

/*
 * The process's id in the engine's PID namespace, which is not the initial one. Returns 0 if the
 * process is not in that namespace.
 */
static __noinline __u32 engine_pid_nested(struct task_struct *task)
{
	__u64 upid, namespace,
		offset = bpf_core_field_offset(struct pid, numbers) +
			 pid_level * bpf_core_type_size(struct upid);
	struct task_struct *leader = task->group_leader;
	struct pid *pid = leader->thread_pid;
	__u32 id = 0;

	if (!pid || pid->level < pid_level)
		return 0;
	if (bpf_probe_read_kernel(&upid, sizeof(upid), &leader->thread_pid))
		return 0;
	upid += offset;
	if (bpf_probe_read_kernel(&namespace, sizeof(namespace),
				  (void *)(upid + bpf_core_field_offset(struct upid, ns))))
		return 0;
	if (BPF_CORE_READ((struct pid_namespace *)namespace, ns.inum) != pid_inode)
		return 0;
	bpf_probe_read_kernel(&id, sizeof(id),
			      (void *)(upid + bpf_core_field_offset(struct upid, nr)));
	return id;
}

/* The process's id in the engine's PID namespace: the one that flows and events show. */
static __always_inline __u32 engine_pid(struct task_struct *task)
{
	return pid_level ? engine_pid_nested(task) : task->tgid;
}

#endif /* SIDETRACK_PROCESS_H */
