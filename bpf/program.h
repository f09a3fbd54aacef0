/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The program that connects: who it is, and whether it belongs to a service. */
#ifndef SIDETRACK_PROGRAM_H
#define SIDETRACK_PROGRAM_H

/*
 * Pointers that come from bpf_get_current_task_btf are read directly; whatever is out of reach
 * reads as 0. Helpers that copy kernel memory cost ten times as much. But each such read costs the
 * verifier a search of the kernel's types, most of what loading takes: so walks are bpf_loops, not
 * unrolled.
 */

/* When the process started, as userspace reads it: a number alone may have been given anew. */
static __always_inline __u64 program_started(struct task_struct *task)
{
	return task->group_leader->start_boottime / 10000000;
}

static __always_inline __u32 program_pid(void)
{
	return process_number(bpf_get_current_task_btf());
}

static __always_inline __u64 program_cgroup(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

#define CGROUP_WALK_MAX 32 /* levels; of a deeper cgroup the upper ones are not seen */

/* A walk from a cgroup upwards. */
struct cgroup_walk {
	struct cgroup *cgroup;
	struct sidetrack_program *program;
};

static long cgroup_step(__u32 i, struct cgroup_walk *walk)
{
	struct cgroup *cgroup = walk->cgroup;
	__u32 level = cgroup->level;
	struct cgroup_subsys_state *above = cgroup->self.parent;

	if (!level || !above)
		return 1;
	if (level <= SIDETRACK_CGROUP_LEVELS_MAX)
		walk->program->cgroups[(level - 1) & (SIDETRACK_CGROUP_LEVELS_MAX - 1)] =
			cgroup->kn->id;
	walk->cgroup = above->cgroup;
	return !walk->cgroup;
}

/* The current program, as conditions ask about it. */
__noinline int program_read(struct sidetrack_program *p)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup_walk walk = { .cgroup = task->cgroups->dfl_cgrp, .program = p };
	struct file *file = task->mm->exe_file;

	if (!p)
		return 0;
	__builtin_memset(p, 0, sizeof(*p));
	if (file) {
		p->inode = file->f_inode->i_ino;
		p->device = file->f_inode->i_sb->s_dev;
	}
	p->uid = task->cred->uid.val;
	p->cgroup_id = walk.cgroup->level ? walk.cgroup->kn->id : 0;
	bpf_loop(CGROUP_WALK_MAX, cgroup_step, &walk, 0);
	return 0;
}

/* A walk from a process to those it descends from, in one cgroup. */
struct owner_walk {
	struct task_struct *task;
	__u64 cgroup;
	__u32 service;
};

/* The key of an owner that the engine has named. */
static __always_inline __u32 owner_named(struct task_struct *task)
{
	return pid_level ? process_number_inside(task) | SIDETRACK_OWNER_NAMED : task->tgid;
}

static long owner_step(__u32 i, struct owner_walk *walk)
{
	struct task_struct *task = walk->task;
	struct sidetrack_owner *owner;
	__u32 key = task->tgid;

	if (key <= 1)
		return 1;
	owner = bpf_map_lookup_elem(&sidetrack_owners, &key);
	if (!owner && pid_level) {
		key = owner_named(task);
		owner = bpf_map_lookup_elem(&sidetrack_owners, &key);
	}
	if (owner && owner->cgroup_id == walk->cgroup && owner->started == program_started(task)) {
		walk->service = owner->service;
		return 1;
	}
	walk->task = task->real_parent;
	return !walk->task;
}

/* The service of a process, or of one it descends from, in the same cgroup; 0 if none. */
__noinline __u32 owner_of_current(__u64 cgroup)
{
	struct owner_walk walk = { .task = bpf_get_current_task_btf(), .cgroup = cgroup };

	bpf_loop(SIDETRACK_ANCESTORS_MAX, owner_step, &walk, 0);
	return walk.service;
}

/* The service whose process this is; 0 if none. Most cgroups have none, and that is soon known. */
static __always_inline __u32 program_service(void)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	struct sidetrack_owner_cgroup *known;

	known = bpf_map_lookup_elem(&sidetrack_owner_cgroups, &cgroup);
	if (!known)
		return 0;
	return known->service ? known->service : owner_of_current(cgroup);
}

static __always_inline int program_in_scope(void)
{
	return bpf_get_current_ancestor_cgroup_id(scope_level) == scope_id;
}

/*
 * Writes one name before what is there. Returns the new start, or a negative number when it no
 * longer fits: then the path's tail stays.
 */
static __always_inline int path_prepend(char *path, int start, __u32 length, const void *name)
{
	__u32 from;

	length &= PATH_SIZE - 1;
	if ((int)length + 1 > start - (PATH_SIZE - SIDETRACK_EXECUTABLE_SIZE))
		return -1;
	from = (start - length) & (PATH_SIZE - 1);
	bpf_probe_read_kernel(path + from, length, name);
	from = (from - 1) & (PATH_SIZE - 1);
	path[from] = '/';
	return from;
}

/* A walk from a file upwards, which writes its path from its end. */
struct path_walk {
	char *path;
	struct dentry *dentry;
	struct dentry *root; /* of the mount */
	int start;
	int ended; /* PATH_* */
};

#define PATH_CUT 0
#define PATH_AT_ROOT 1	 /* of its mount */
#define PATH_OF_NOBODY 2 /* a file in no mount, such as memfd */

static long path_step(__u32 i, struct path_walk *walk)
{
	struct dentry *dentry = walk->dentry, *parent = dentry->d_parent;
	int next;

	if (dentry == walk->root) {
		walk->ended = PATH_AT_ROOT;
		return 1;
	}
	if (dentry == parent) {
		walk->ended = PATH_OF_NOBODY;
		return 1;
	}
	next = path_prepend(walk->path, walk->start, dentry->d_name.len, dentry->d_name.name);
	if (next < 0)
		return 1;
	walk->start = next;
	walk->dentry = parent;
	return 0;
}

/* The same from a mount upwards: by helpers, as no typed pointer leads to a mount's parent. */
struct mount_walk {
	char *path;
	struct dentry *dentry;
	struct mount *mount;
	int start;
	int ended; /* PATH_* */
};

/* To where the mount is mounted. Returns 1 if it is its namespace's root. */
static __always_inline int mount_ascend(struct mount_walk *walk)
{
	struct mount *mount = walk->mount, *above = BPF_CORE_READ(mount, mnt_parent);

	if (!above || above == mount)
		return 1;
	walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
	walk->mount = above;
	return 0;
}

static long mount_step(__u32 i, struct mount_walk *walk)
{
	struct dentry *dentry = walk->dentry;
	struct mount *mount = walk->mount;
	int next;

	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
		walk->ended = mount_ascend(walk) ? PATH_AT_ROOT : PATH_CUT;
		return walk->ended;
	}
	next = path_prepend(walk->path, walk->start, BPF_CORE_READ(dentry, d_name.len),
			    BPF_CORE_READ(dentry, d_name.name));
	if (next < 0)
		return 1;
	walk->start = next;
	walk->dentry = BPF_CORE_READ(dentry, d_parent);
	return 0;
}

/* The rest of a path whose file may not be on its namespace's root mount. Negative if cut. */
static __noinline int path_walk_mounts(char *path, int start, struct vfsmount *from)
{
	struct mount_walk walk = {
		.path = path,
		.start = start,
		.mount = (void *)from - bpf_core_field_offset(struct mount, mnt),
	};

	if (!path || mount_ascend(&walk))
		return start;
	bpf_loop(SIDETRACK_PATH_DEPTH_MAX, mount_step, &walk, 0);
	return walk.ended == PATH_AT_ROOT ? walk.start : -1;
}

/* The path of a file, from its end upwards. Returns where it starts in the buffer. */
static __always_inline int path_walk(char *path, struct file *file, __u32 *flags)
{
	struct path_walk walk = {
		.path = path,
		.dentry = file->f_path.dentry,
		.root = file->f_path.mnt->mnt_root,
		.start = PATH_SIZE - 1,
	};
	int start;

	path[PATH_SIZE - 1] = 0;
	bpf_loop(SIDETRACK_PATH_DEPTH_MAX, path_step, &walk, 0);
	if (walk.ended == PATH_OF_NOBODY)
		return walk.start;
	start = walk.ended == PATH_AT_ROOT ? path_walk_mounts(path, walk.start, file->f_path.mnt) :
					     -1;
	if (start >= 0)
		return start;
	*flags |= SIDETRACK_EXECUTABLE_CUT;
	return walk.start;
}

/*
 * A number for a file by where it is: of the device, and of each folder up to the mount's root,
 * which one it is (its inode) and how it is called. It begins with a secret, so that nobody can
 * make a file whose number is another's.
 */
static __always_inline __u64 executable_number(struct file *file)
{
	struct dentry *root = file->f_path.mnt->mnt_root;
	struct dentry *dentry = file->f_path.dentry;
	__u64 number = token_key[0] ^ file->f_inode->i_sb->s_dev;

	for (int i = 0; i < SIDETRACK_PATH_DEPTH_MAX && dentry != root; i++) {
		number = (number ^ dentry->d_inode->i_ino) * 0x9e3779b97f4a7c15ULL;
		number = (number ^ number >> 32 ^ dentry->d_name.hash) * 0xff51afd7ed558ccdULL;
		dentry = dentry->d_parent;
	}
	return number ^ root->d_inode->i_ino;
}

/* Writes a file down that is not known yet. */
__noinline int executable_learn(__u64 number)
{
	struct file *file = bpf_get_current_task_btf()->mm->exe_file;
	struct sidetrack_executable *executable;
	struct sidetrack_scratch *scratch = scratch_acquire();
	__u32 start;

	if (!scratch)
		return 0; /* it will be learnt at its next connect */
	if (file) {
		executable = &scratch->executable;
		executable->inode = file->f_inode->i_ino;
		executable->device = file->f_inode->i_sb->s_dev;
		executable->flags = 0;
		start = path_walk(scratch->path, file, &executable->flags) & (PATH_SIZE - 1);
		bpf_probe_read_kernel(executable->path, sizeof(executable->path),
				      scratch->path + start);
		bpf_map_update_elem(&sidetrack_executables, &number, executable, BPF_ANY);
	}
	scratch_release(scratch);
	return 0;
}

/* The number of the current program's file, which is known from now on; 0 for a kernel thread. */
static __always_inline __u64 program_executable(struct task_struct *task)
{
	struct file *file = task->mm->exe_file;
	__u64 number;

	if (!file)
		return 0;
	number = executable_number(file);
	if (number == executable_last)
		return number;
	if (bpf_map_lookup_elem(&sidetrack_executables, &number)) {
		executable_last = number;
	} else {
		executable_last = 0; /* to learn one may be to forget another */
		executable_learn(number);
	}
	return number;
}

/* Fills in the current program as the one that opened the chain. */
static __always_inline int program_describe(struct sidetrack_flow_entry *entry)
{
	/* Read from the task: sockops programs have no helpers for these before Linux 6.10. */
	struct task_struct *task = bpf_get_current_task_btf();
	struct sidetrack_flow *flow = &entry->flow;

	flow->pid = process_number(task);
	flow->uid = task->cred->uid.val;
	flow->gid = task->cred->gid.val;
	flow->cgroup_id = program_cgroup(task);
	__builtin_memcpy(flow->comm, task->comm, sizeof(flow->comm));
	entry->executable = program_executable(task);
	program_read(&entry->program);
	return 0;
}

/* The original program is the parent flow's, however long the chain (WFP: ALE_ORIGINAL_APP_ID). */
static __always_inline void program_inherit(struct sidetrack_flow_entry *entry,
					    const struct sidetrack_flow_entry *parent)
{
	struct sidetrack_flow *flow = &entry->flow;

	entry->executable = parent->executable;
	entry->program = parent->program;
	flow->origin_id = parent->flow.origin_id;
	flow->pid = parent->flow.pid;
	flow->uid = parent->flow.uid;
	flow->gid = parent->flow.gid;
	flow->cgroup_id = parent->flow.cgroup_id;
	flow->flags |= parent->flow.flags;
	__builtin_memcpy(flow->comm, parent->flow.comm, sizeof(flow->comm));
}

#endif /* SIDETRACK_PROGRAM_H */
