/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The current program: its properties, whether it belongs to a service, and its executable. */
#ifndef SIDETRACK_PROGRAM_H
#define SIDETRACK_PROGRAM_H

/*
 * Pointers that start at bpf_get_current_task_btf are read directly; memory that cannot be read
 * reads as 0. Helpers that copy kernel memory cost ten times as much. But for each direct read the
 * verifier searches the kernel's types, which takes most of the time of loading: so walks are
 * bpf_loops and not unrolled.
 */

/* The process's start time, in hundredths of a second as in /proc/PID/stat. It distinguishes
 * processes that had the same id. */
static __always_inline __u64 program_started(struct task_struct *task)
{
	return task->group_leader->start_boottime / 10000000;
}

static __always_inline __u32 program_pid(void)
{
	return engine_pid(bpf_get_current_task_btf());
}

static __always_inline __u64 program_cgroup(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

/* Levels of a walk to the root. For a deeper cgroup, the levels nearest to the root read as 0. */
#define CGROUP_WALK_MAX 32

/* A walk from a cgroup to the root. */
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

/*
 * Does a program run with other rights than those of its user? A set-user-ID or set-group-ID
 * program does, also after it has dropped them as long as it can get them back; and a program of
 * root that has taken a user's rights for a time.
 */
static __always_inline int program_is_elevated(const struct cred *cred)
{
	__u32 uid = cred->uid.val, gid = cred->gid.val;

	return cred->euid.val != uid || cred->suid.val != uid || cred->egid.val != gid ||
	       cred->sgid.val != gid;
}

/* Reads the properties of the current program that conditions test. */
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
	if (program_is_elevated(task->cred))
		p->flags = SIDETRACK_PROGRAM_ELEVATED;
	p->cgroup_id = walk.cgroup->level ? walk.cgroup->kn->id : 0;
	bpf_loop(CGROUP_WALK_MAX, cgroup_step, &walk, 0);
	return 0;
}

/* A walk from a process to its ancestors, which looks for an owner in one cgroup. */
struct owner_walk {
	struct task_struct *task;
	__u64 cgroup;
	__u32 service; /* of the owner that was found; 0 if none was */
};

/* The key of a process in sidetrack_owners, if the engine entered it. */
static __always_inline __u32 owner_named_key(struct task_struct *task)
{
	return pid_level ? engine_pid_nested(task) | SIDETRACK_OWNER_NAMED : task->tgid;
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
		key = owner_named_key(task);
		owner = bpf_map_lookup_elem(&sidetrack_owners, &key);
	}
	if (owner && owner->cgroup_id == walk->cgroup && owner->started == program_started(task)) {
		walk->service = owner->service;
		return 1;
	}
	walk->task = task->real_parent;
	return !walk->task;
}

/* The service of the current process, or of an ancestor in the same cgroup; 0 if none. */
__noinline __u32 owner_of_current(__u64 cgroup)
{
	struct owner_walk walk = { .task = bpf_get_current_task_btf(), .cgroup = cgroup };

	bpf_loop(SIDETRACK_ANCESTORS_MAX, owner_step, &walk, 0);
	return walk.service;
}

/* The service that the current process belongs to; 0 if none. Most cgroups contain no owners. */
static __always_inline __u32 program_service(void)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	struct sidetrack_owner_cgroup *entry;

	entry = bpf_map_lookup_elem(&sidetrack_owner_cgroups, &cgroup);
	if (!entry)
		return 0;
	return entry->service ? entry->service : owner_of_current(cgroup);
}

static __always_inline int program_in_scope(void)
{
	return bpf_get_current_ancestor_cgroup_id(scope_level) == scope_id;
}

/*
 * Writes one name in front of a path. Returns the path's new start, or a negative number if the
 * name does not fit: then the tail stays as it is.
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

/* A walk from a file to the root of its mount, which writes the path from its end to its start. */
struct path_walk {
	char *path;
	struct dentry *dentry;
	struct dentry *root; /* root of the mount */
	int start;
	int ended; /* PATH_* */
};

#define PATH_CUT 0	 /* the walk ended before the root */
#define PATH_AT_ROOT 1	 /* at the root of the mount, or of the namespace */
#define PATH_UNMOUNTED 2 /* the file is in no mount, for example a memfd */

static long path_step(__u32 i, struct path_walk *walk)
{
	struct dentry *dentry = walk->dentry, *parent = dentry->d_parent;
	int next;

	if (dentry == walk->root) {
		walk->ended = PATH_AT_ROOT;
		return 1;
	}
	if (dentry == parent) {
		walk->ended = PATH_UNMOUNTED;
		return 1;
	}
	next = path_prepend(walk->path, walk->start, dentry->d_name.len, dentry->d_name.name);
	if (next < 0)
		return 1;
	walk->start = next;
	walk->dentry = parent;
	return 0;
}

/*
 * The same walk from a mount to the root of its namespace. It uses helpers, because no pointer
 * whose type the verifier knows leads to the parent of a mount.
 */
struct mount_walk {
	char *path;
	struct dentry *dentry;
	struct mount *mount;
	int start;
	int ended; /* PATH_* */
};

/* Goes to the mount point of a mount. Returns 1 if the mount is the root of its namespace. */
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

/*
 * Writes the part of a path that is above the file's mount. Returns the path's start; negative if
 * the path was cut.
 */
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

/* Writes the path of a file. Returns its start in the buffer. */
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
	if (walk.ended == PATH_UNMOUNTED)
		return walk.start;
	start = walk.ended == PATH_AT_ROOT ? path_walk_mounts(path, walk.start, file->f_path.mnt) :
					     -1;
	if (start >= 0)
		return start;
	*flags |= SIDETRACK_EXECUTABLE_CUT;
	return walk.start;
}

/*
 * The key of an executable: a hash of the device, and of the inode and name of the file and of each
 * folder up to the root of its mount. It starts from a secret, so that no user can construct a file
 * with the key of another one.
 */
struct executable_walk {
	struct dentry *dentry;
	struct dentry *root; /* root of the mount */
	__u64 id;
};

static long executable_step(__u32 i, struct executable_walk *walk)
{
	struct dentry *dentry = walk->dentry;
	__u64 id = walk->id;

	if (dentry == walk->root)
		return 1;
	id = (id ^ dentry->d_inode->i_ino) * 0x9e3779b97f4a7c15ULL;
	walk->id = (id ^ id >> 32 ^ dentry->d_name.hash) * 0xff51afd7ed558ccdULL;
	walk->dentry = dentry->d_parent;
	return 0;
}

static __always_inline __u64 executable_id(struct file *file)
{
	struct executable_walk walk = {
		.dentry = file->f_path.dentry,
		.root = file->f_path.mnt->mnt_root,
		.id = token_key[0] ^ file->f_inode->i_sb->s_dev,
	};

	bpf_loop(SIDETRACK_PATH_DEPTH_MAX, executable_step, &walk, 0);
	return walk.id ^ walk.root->d_inode->i_ino;
}

/* Adds the current program's executable to the map. */
__noinline int executable_add(__u64 id)
{
	struct file *file = bpf_get_current_task_btf()->mm->exe_file;
	struct sidetrack_executable *executable;
	struct sidetrack_scratch *scratch = scratch_acquire();
	__u32 start;

	if (!scratch)
		return 0; /* it is added at its next connect */
	if (file) {
		executable = &scratch->executable;
		executable->inode = file->f_inode->i_ino;
		executable->device = file->f_inode->i_sb->s_dev;
		executable->flags = 0;
		start = path_walk(scratch->path, file, &executable->flags) & (PATH_SIZE - 1);
		bpf_probe_read_kernel(executable->path, sizeof(executable->path),
				      scratch->path + start);
		bpf_map_update_elem(&sidetrack_executables, &id, executable, BPF_ANY);
	}
	scratch_release(scratch);
	return 0;
}

/*
 * The key of the current program's executable, which is in the map after this; 0 for a kernel
 * thread.
 */
static __always_inline __u64 program_executable(struct task_struct *task)
{
	struct file *file = task->mm->exe_file;
	__u64 id;

	if (!file)
		return 0;
	id = executable_id(file);
	if (id == executable_last)
		return id;
	if (bpf_map_lookup_elem(&sidetrack_executables, &id)) {
		executable_last = id;
	} else {
		executable_last = 0; /* adding one can drop the one that was found last */
		executable_add(id);
	}
	return id;
}

/* Describes the current program as the original program of a flow. Never fails. */
static __always_inline int program_describe(struct sidetrack_flow_entry *entry)
{
	/* Read from the task: sockops programs have no helpers for these before Linux 6.10. */
	struct task_struct *task = bpf_get_current_task_btf();
	struct sidetrack_flow *flow = &entry->flow;

	flow->pid = engine_pid(task);
	flow->uid = task->cred->uid.val;
	flow->gid = task->cred->gid.val;
	flow->cgroup_id = program_cgroup(task);
	__builtin_memcpy(flow->comm, task->comm, sizeof(flow->comm));
	entry->executable_id = program_executable(task);
	program_read(&entry->program);
	return 0;
}

/* Copies the original program from the parent flow (in WFP, ALE_ORIGINAL_APP_ID). */
static __always_inline void program_inherit(struct sidetrack_flow_entry *entry,
					    const struct sidetrack_flow_entry *parent)
{
	struct sidetrack_flow *flow = &entry->flow;

	entry->executable_id = parent->executable_id;
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
