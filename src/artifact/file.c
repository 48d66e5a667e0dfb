#include "artifact/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/guard.h"
#include "base/log.h"

static int64_t nanoseconds(struct timespec time) {
    return (int64_t)time.tv_sec * TPV_NS_PER_SECOND + time.tv_nsec;
}

static tpv_status_t read_state(const tpv_artifact_file_t *file, struct stat *status, tpv_file_state_t *state) {
    if (fstat(file->descriptor, status) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%.500s: fstat", file->path);
    if (!S_ISREG(status->st_mode)) return tpv_error_set(TPV_ERR_FORMAT, "%.500s: expected a regular file", file->path);
    *state = (tpv_file_state_t){
        .device = status->st_dev,
        .inode = status->st_ino,
        .size = (uint64_t)status->st_size,
        .mtime_ns = nanoseconds(status->st_mtim),
        .ctime_ns = nanoseconds(status->st_ctim),
    };
    return TPV_OK;
}

tpv_status_t tpv_artifact_file_state(const tpv_artifact_file_t *file, tpv_file_state_t *state) {
    struct stat status;
    return read_state(file, &status, state);
}

static tpv_status_t refuse_changed(const tpv_artifact_file_t *file, const char *what) {
    return tpv_error_set(TPV_ERR_FORMAT,
                         "%.500s: the file %s since it was opened: an artifact must not change while it is in use; "
                         "publish it again",
                         file->path, what);
}

tpv_status_t tpv_artifact_file_check(const tpv_artifact_file_t *file) {
    struct stat status;
    tpv_file_state_t now = {0};
    TPV_TRY(read_state(file, &status, &now));
    if (now.size < file->state.size)
        return tpv_error_set(TPV_ERR_FORMAT, "%.500s: the file shrank since it was opened: it had %llu bytes, now %llu",
                             file->path, (unsigned long long)file->state.size, (unsigned long long)now.size);
    if (now.size != file->state.size || now.mtime_ns != file->state.mtime_ns)
        return refuse_changed(file, "was written to");
    /* The removal of the last name changes the time too, and leaves nothing that could be opened and written. */
    if (now.ctime_ns != file->state.ctime_ns && status.st_nlink > 0)
        return refuse_changed(file, "was written to and its modification time put back, or its mode, owner or names "
                                    "were changed,");
    return TPV_OK;
}

static tpv_status_t open_regular(const char *path, tpv_artifact_file_t *file) {
    *file = (tpv_artifact_file_t){.descriptor = -1, .path = strdup(path)};
    if (!file->path) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to open %.500s", path);
    /* Without O_NONBLOCK the open of a FIFO would wait for a writer. */
    file->descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    tpv_status_t status = TPV_OK;
    if (file->descriptor < 0) {
        bool missing = errno == ENOENT || errno == ENOTDIR;
        status = tpv_error_set_errno(missing ? TPV_ERR_NOT_FOUND : TPV_ERR_SYSTEM, errno, "cannot open %.500s", path);
    }
    if (status == TPV_OK) status = tpv_artifact_file_state(file, &file->state);
    if (status != TPV_OK) tpv_artifact_file_close(file);
    return status;
}

tpv_status_t tpv_artifact_file_open(const char *path, tpv_artifact_file_t *file) {
    TPV_TRY(open_regular(path, file));
    tpv_status_t status = TPV_OK;
    if (file->state.size == 0)
        status = tpv_error_set(TPV_ERR_FORMAT, "%.500s: the file is empty", path);
    else if (file->state.size > SIZE_MAX)
        status = tpv_error_set(TPV_ERR_FORMAT, "%.500s: the file is too large to map", path);
    if (status != TPV_OK) tpv_artifact_file_close(file);
    return status;
}

/* What mmap says of file systems that have no mappings of this kind (mmap(2): ENODEV; gVisor and 9p: the others). */
static bool is_unmappable(int error) {
    return error == ENODEV || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL;
}

static tpv_status_t read_whole(tpv_artifact_file_t *file) {
    size_t size = (size_t)file->state.size;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "%.500s cannot be mapped: no memory to read its %zu bytes",
                                   file->path, size);
    TPV_WARN("%s: its file system has no mappings: its %zu bytes are read into memory", file->path, size);
    tpv_status_t status = tpv_artifact_file_read(file, 0, size, memory);
    if (status != TPV_OK) {
        munmap(memory, size);
        return status;
    }
    mprotect(memory, size, PROT_READ);
    file->mapping = memory;
    return TPV_OK;
}

tpv_status_t tpv_artifact_file_map(tpv_artifact_file_t *file) {
    size_t size = (size_t)file->state.size;
    if (file->mapping) return TPV_OK;
    /* FUSE with direct I/O, and some network file systems, have private mappings alone. */
    void *mapping = mmap(NULL, size, PROT_READ, MAP_SHARED, file->descriptor, 0);
    if (mapping == MAP_FAILED && is_unmappable(errno))
        mapping = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file->descriptor, 0);
    if (mapping == MAP_FAILED && is_unmappable(errno)) return read_whole(file);
    if (mapping == MAP_FAILED) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot map %.500s", file->path);
    file->mapping = mapping;
    return TPV_OK;
}

tpv_status_t tpv_artifact_map(const tpv_artifact_t *artifact) {
    if (atomic_load_explicit(&artifact->mapped, memory_order_acquire)) return TPV_OK;
    if (artifact->file_count == 0) return tpv_error_set(TPV_ERR_ARGUMENT, "the artifact is an index without data");
    tpv_artifact_t *made = (tpv_artifact_t *)(uintptr_t)artifact; /* what is mapped when is not part of its value */
    tpv_status_t status = TPV_OK;
    pthread_mutex_lock(&made->map_lock);
    for (uint32_t i = 0; status == TPV_OK && i < made->file_count; i++)
        status = tpv_artifact_file_map(&made->files[i]);
    if (status == TPV_OK) atomic_store_explicit(&made->mapped, true, memory_order_release);
    pthread_mutex_unlock(&made->map_lock);
    return status;
}

void tpv_artifact_file_close(tpv_artifact_file_t *file) {
    if (file->mapping) munmap((void *)(uintptr_t)file->mapping, (size_t)file->state.size);
    if (file->descriptor >= 0) close(file->descriptor);
    free(file->path);
    *file = (tpv_artifact_file_t){.descriptor = -1};
}

tpv_status_t tpv_artifact_file_read(const tpv_artifact_file_t *file, uint64_t offset, size_t length, void *bytes) {
    char *place = bytes;
    while (length > 0) {
        ssize_t got = pread(file->descriptor, place, length, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot read %.500s", file->path);
        if (got == 0)
            return tpv_error_set(TPV_ERR_FORMAT, "%.500s: the file shrank since it was opened: it had %llu bytes",
                                 file->path, (unsigned long long)file->state.size);
        place += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return TPV_OK;
}

tpv_status_t tpv_artifact_refuse_pointer(const void *begin, size_t length) {
    /* Git LFS specification, "The Pointer": the first line is the version. */
    static const char first[] = "version https://git-lfs.github.com/spec/";
    if (length < sizeof first - 1 || memcmp(begin, first, sizeof first - 1) != 0) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT,
                         "this is a Git LFS pointer, not the file itself: fetch it with \"git lfs pull\"");
}

tpv_status_t tpv_artifact_text_read(const char *path, size_t limit, char **text, size_t *length) {
    tpv_artifact_file_t file;
    TPV_TRY(open_regular(path, &file));
    tpv_status_t status = TPV_OK;
    *text = NULL;
    if (file.state.size > limit) {
        status = tpv_error_set(TPV_ERR_FORMAT, "%.500s: the file has %llu bytes: expected at most %zu", path,
                               (unsigned long long)file.state.size, limit);
    } else {
        *length = (size_t)file.state.size;
        *text = malloc(*length + 1);
        if (!*text) status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to read %.500s", path);
    }
    if (status == TPV_OK) status = tpv_artifact_file_read(&file, 0, *length, *text);
    if (status == TPV_OK) {
        status = tpv_artifact_refuse_pointer(*text, *length);
        if (status != TPV_OK) tpv_error_prefix(status, "%.500s", path);
    }
    if (status != TPV_OK) {
        free(*text);
        *text = NULL;
    }
    tpv_artifact_file_close(&file);
    return status;
}

tpv_status_t tpv_artifact_check(const tpv_artifact_t *artifact) {
    for (uint32_t i = 0; i < artifact->file_count; i++)
        TPV_TRY(tpv_artifact_file_check(&artifact->files[i]));
    return TPV_OK;
}

tpv_status_t tpv_artifact_check_tensor(const tpv_artifact_t *artifact, const tpv_tensor_t *tensor) {
    return tensor->shard < artifact->file_count ? tpv_artifact_file_check(&artifact->files[tensor->shard]) : TPV_OK;
}

tpv_status_t tpv_artifact_guard(const tpv_artifact_t *artifact, void (*body)(void *user), void *user) {
    tpv_guard_fault_t fault;
    tpv_status_t status = tpv_guard_run(body, user, &fault);
    if (status != TPV_ERR_FORMAT) return status;
    uintptr_t address = (uintptr_t)fault.address;
    for (uint32_t i = 0; i < artifact->file_count; i++) {
        const tpv_artifact_file_t *file = &artifact->files[i];
        if (!file->mapping || address - (uintptr_t)file->mapping >= file->state.size) continue;
        return tpv_error_set(TPV_ERR_FORMAT,
                             "%.500s: byte %llu cannot be read: the file shrank since it was opened, "
                             "when it had %llu bytes, or its disk failed",
                             file->path, (unsigned long long)(address - (uintptr_t)file->mapping),
                             (unsigned long long)file->state.size);
    }
    return tpv_error_set(TPV_ERR_SYSTEM,
                         "SIGBUS at address %p outside of the artifact: the destination's file was "
                         "truncated or its disk is full",
                         fault.address);
}
