#include "simgpu/patch.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BIND_POOL_BYTES = 1 << 16 };

#if defined(__x86_64__)

enum { JUMP_BYTES = 12, BIND_BYTES = 24 };

/* mov $target, %rax; jmp *%rax */
static void write_jump(unsigned char *at, const void *target) {
    memcpy(at, (const unsigned char[JUMP_BYTES]){0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0}, JUMP_BYTES);
    memcpy(at + 2, &target, sizeof target);
}

/* mov $argument, %rdi; then the jump */
static void write_bound_jump(unsigned char *at, const void *target, const char *argument) {
    memcpy(at, (const unsigned char[]){0x48, 0xbf}, 2);
    memcpy(at + 2, &argument, sizeof argument);
    write_jump(at + 10, target);
}

#elif defined(__aarch64__)

enum { JUMP_BYTES = 16, BIND_BYTES = 32 };

static void write_words(unsigned char *at, const uint32_t *words, size_t count) {
    memcpy(at, words, count * sizeof *words);
}

/* ldr x16, .+8; br x16; .quad target */
static void write_jump(unsigned char *at, const void *target) {
    write_words(at, (const uint32_t[]){0x58000050, 0xd61f0200}, 2);
    memcpy(at + 8, &target, sizeof target);
}

/* ldr x0, .+16; ldr x16, .+20; br x16; nop; .quad argument; .quad target */
static void write_bound_jump(unsigned char *at, const void *target, const char *argument) {
    write_words(at, (const uint32_t[]){0x58000080, 0x580000b0, 0xd61f0200, 0xd503201f}, 4);
    memcpy(at + 16, &argument, sizeof argument);
    memcpy(at + 24, &target, sizeof target);
}

#else
#error "simgpu knows how to patch x86-64 and arm64 only"
#endif

static int set_protection(void *entry, int protection) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)entry & ~(page - 1);
    uintptr_t end = ((uintptr_t)entry + JUMP_BYTES + page - 1) & ~(page - 1);
    return mprotect((void *)first, end - first, protection);
}

int sim_patch_jump(void *entry, void *target) {
    if (set_protection(entry, PROT_READ | PROT_WRITE)) return -1;
    write_jump(entry, target);
    if (set_protection(entry, PROT_READ | PROT_EXEC)) return -1;
    __builtin___clear_cache((char *)entry, (char *)entry + JUMP_BYTES);
    return 0;
}

void *sim_patch_bind(int (*target)(const char *argument), const char *argument) {
    static unsigned char *pool;
    static size_t used;
    if (!pool) {
        void *memory =
            mmap(NULL, BIND_POOL_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return NULL;
        pool = memory;
    }
    if (used + BIND_BYTES > BIND_POOL_BYTES) return NULL;
    unsigned char *function = pool + used;
    used += BIND_BYTES;
    write_bound_jump(function, (const void *)(uintptr_t)target, argument);
    __builtin___clear_cache((char *)function, (char *)function + BIND_BYTES);
    return function;
}
