/* Files on file systems without mappings of one kind or any, files that shrink while they are compared, and who maps at
 * all. The file systems are stood in for by an mmap of this program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "artifact/artifact.h"
#include "common/test_files.h"
#include "tpview/fetch.h"

/* How mappings of files fail: none with 0. Set while no other thread runs. */
static int shared_error, private_error;
static atomic_uint file_mappings;

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0) {
        int error = (flags & MAP_TYPE) == MAP_PRIVATE ? private_error : shared_error;
        if (error) {
            errno = error;
            return MAP_FAILED;
        }
        atomic_fetch_add(&file_mappings, 1);
    }
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

#define ROWS 1536u /* of 8 KiB: three blocks of a comparison */
#define HEADER "{\"a\":{\"dtype\":\"U8\",\"shape\":[1536,8192],\"data_offsets\":[0,12582912]}}"
#define BYTES (ROWS * 8192u)
#define WHOLE                                                                                                          \
    "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1536,8192],"               \
    "\"pieces\":[{\"tensor\":\"a\",\"sizes\":[1536,8192]}]}]}"

static char *folder;
static const char *path;

static int make_folder(void **state) {
    (void)state;
    shared_error = private_error = 0;
    folder = test_folder_make();
    path = test_path(folder, "m.safetensors");
    test_safetensors_write(path, HEADER, BYTES, 5);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    shared_error = private_error = 0;
    test_folder_remove(folder);
    return 0;
}

static tpv_artifact_t *open_it(void) {
    tpv_artifact_t *artifact = NULL;
    assert_int_equal(tpv_artifact_open(path, &artifact), TPV_OK);
    return artifact;
}

static tpv_view_t *view_of(const tpv_artifact_t *artifact) {
    tpv_view_t *view = NULL;
    assert_int_equal(tpv_view_from_json(artifact, WHOLE, strlen(WHOLE), &view), TPV_OK);
    return view;
}

static void assert_gathers(const tpv_artifact_t *artifact) {
    tpv_view_t *view = view_of(artifact);
    uint8_t *bytes = malloc(BYTES);
    assert_non_null(bytes);
    assert_int_equal(tpv_view_gather(view, artifact, 0, BYTES, bytes), TPV_OK);
    for (uint32_t i = 0; i < BYTES; i++)
        if (bytes[i] != (uint8_t)((5 + i * UINT32_C(2654435761)) >> 24)) fail_msg("byte %u", i);
    free(bytes);
    tpv_view_free(view);
}

static void headers_alone_map_nothing(void **state) {
    (void)state;
    atomic_store(&file_mappings, 0);
    tpv_artifact_t *artifact = open_it();
    tpv_view_free(view_of(artifact));
    assert_int_equal(tpv_artifact_digest(artifact, 1, NULL, NULL), TPV_OK);
    assert_int_equal(atomic_load(&file_mappings), 0);
    assert_gathers(artifact);
    assert_gathers(artifact);
    assert_int_equal(atomic_load(&file_mappings), 1);
    tpv_artifact_close(artifact);
}

static void every_kind_of_mapping_gives_the_bytes(void **state) {
    (void)state;
    static const int errors[] = {ENODEV, EOPNOTSUPP, ENOSYS, EINVAL};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        for (int private = 0; private < 2; private ++) {
            shared_error = errors[i];
            private_error = private ? 0 : errors[i];
            atomic_store(&file_mappings, 0);
            tpv_artifact_t *artifact = open_it();
            assert_gathers(artifact);
            assert_int_equal(atomic_load(&file_mappings), private);
            tpv_artifact_close(artifact);
        }
    }
}

static void other_errors_of_a_mapping_are_told(void **state) {
    (void)state;
    shared_error = EPERM;
    tpv_artifact_t *artifact = open_it();
    tpv_view_t *view = view_of(artifact);
    char byte;
    assert_int_equal(tpv_view_gather(view, artifact, 0, 1, &byte), TPV_ERR_SYSTEM);
    assert_non_null(strstr(tpv_error_message(), "m.safetensors: Operation not permitted"));
    assert_null(tpv_artifact_data(artifact, tpv_artifact_tensor(artifact, 0)));
    shared_error = 0; /* the next who asks may have more luck */
    assert_non_null(tpv_artifact_data(artifact, tpv_artifact_tensor(artifact, 0)));
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void a_file_that_shrank_is_not_read_into_memory(void **state) {
    (void)state;
    shared_error = private_error = ENODEV;
    tpv_artifact_t *artifact = open_it();
    test_file_resize(path, 4096);
    assert_int_equal(tpv_artifact_map(artifact), TPV_ERR_FORMAT);
    assert_non_null(strstr(tpv_error_message(), "shrank"));
    tpv_artifact_close(artifact);
}

static void *touch(void *user) {
    const tpv_artifact_t *artifact = user;
    return (void *)(uintptr_t)tpv_artifact_data(artifact, tpv_artifact_tensor(artifact, 0));
}

static void threads_map_once(void **state) {
    (void)state;
    atomic_store(&file_mappings, 0);
    tpv_artifact_t *artifact = open_it();
    pthread_t threads[8];
    void *data[8];
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, touch, artifact), 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_join(threads[i], &data[i]), 0);
    for (int i = 0; i < 8; i++)
        assert_ptr_equal(data[i], data[0]);
    assert_non_null(data[0]);
    assert_int_equal(atomic_load(&file_mappings), 1);
    tpv_artifact_close(artifact);
}

/* ---- verification ---- */

typedef struct {
    const char *path;
    uint64_t length;
} shrink_t;

static bool shrink(void *user, uint64_t done, uint64_t total) {
    const shrink_t *job = user;
    (void)total;
    if (done == 4194304) test_file_resize(job->path, job->length); /* after the first of three blocks */
    return true;
}

static void assert_truncation_is_told(uint64_t length) {
    tpv_artifact_t *artifact = open_it();
    tpv_view_t *view = view_of(artifact);
    shrink_t job = {test_path(folder, "fetched.safetensors"), length};
    test_safetensors_write(job.path, HEADER, BYTES, 5);
    assert_int_equal(tpv_verify_file(artifact, view, job.path, NULL, NULL), TPV_OK);
    assert_int_equal(tpv_verify_file(artifact, view, job.path, shrink, &job), TPV_ERR_FORMAT);
    if (!strstr(tpv_error_message(), "fetched.safetensors") || !strstr(tpv_error_message(), "shrank"))
        fail_msg("%s", tpv_error_message());
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void a_file_truncated_while_it_is_verified(void **state) {
    (void)state;
    assert_truncation_is_told(4096);
    /* In the last page: it reads as zeros. */
    assert_truncation_is_told(8 + sizeof HEADER - 1 + BYTES - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(headers_alone_map_nothing, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(every_kind_of_mapping_gives_the_bytes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(other_errors_of_a_mapping_are_told, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_file_that_shrank_is_not_read_into_memory, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(threads_map_once, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_file_truncated_while_it_is_verified, make_folder, remove_folder),
    };
    return cmocka_run_group_tests_name("artifact_map", tests, NULL, NULL);
}
