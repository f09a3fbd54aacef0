/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A process's number, which is another one in each namespace of processes that has it. */
#ifndef SIDETRACK_PROCESS_H
#define SIDETRACK_PROCESS_H

/* Its number in the engine's namespace, if that is not the first; 0 if that does not have it. */
static __noinline __u32 process_number_inside(struct task_struct *task)
{
	__u64 place, namespace,
		start = bpf_core_field_offset(struct pid, numbers) +
			pid_level * bpf_core_type_size(struct upid);
	struct task_struct *leader = task->group_leader;
	struct pid *pid = leader->thread_pid;
	__u32 number = 0;

	if (!pid || pid->level < pid_level)
		return 0;
	if (bpf_probe_read_kernel(&place, sizeof(place), &leader->thread_pid))
		return 0;
	place += start;
	if (bpf_probe_read_kernel(&namespace, sizeof(namespace),
				  (void *)(place + bpf_core_field_offset(struct upid, ns))))
		return 0;
	if (BPF_CORE_READ((struct pid_namespace *)namespace, ns.inum) != pid_inode)
		return 0;
	bpf_probe_read_kernel(&number, sizeof(number),
			      (void *)(place + bpf_core_field_offset(struct upid, nr)));
	return number;
}

/* Its number as the engine knows it, and so do those who are told. */
static __always_inline __u32 process_number(struct task_struct *task)
{
	return pid_level ? process_number_inside(task) : task->tgid;
}

#endif /* SIDETRACK_PROCESS_H */
