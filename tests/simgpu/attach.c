/* NCCL is linked with the static CUDA runtime, whose entry points (cudaMalloc, ...) are local symbols of libnccl.so.2.
 * Release wheels keep their symbol table, so that they are found by name and replaced. */
#include "simgpu/attach.h"

#include "simgpu/cuda_abi.h"
#include "simgpu/cuda_api.h"
#include "simgpu/elf_symbols.h"
#include "simgpu/kernel_args.h"
#include "simgpu/patch.h"

#include <ctype.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int refuse(const char *function) {
    fprintf(stderr, "simgpu: %s is not simulated\n", function);
    return CUDA_NOT_SUPPORTED;
}

static void *replacement_of(const char *name) {
    for (size_t i = 0; i < sim_runtime_function_count; i++)
        if (strcmp(sim_runtime_functions[i].name, name) == 0) return sim_runtime_functions[i].address;
    return NULL;
}

/* A function that says by its name that it is not simulated. */
static void *refusal_of(const char *name) {
    const char *kept = strdup(name);
    return kept ? sim_patch_bind(refuse, kept) : NULL;
}

struct patching {
    unsigned replaced;
    char failed[64]; /* the name of a function that should have been replaced and was not */
};

static void patch_symbol(const struct sim_symbol *symbol, void *context) {
    struct patching *patching = context;
    if (!symbol->is_function && strcmp(symbol->name, "ncclDevFuncRowToId") == 0) sim_function_ids = symbol->address;
    if (!symbol->is_function || strncmp(symbol->name, "cuda", 4) != 0 || !isupper((unsigned char)symbol->name[4]))
        return;
    /* NCCL's own placeholders for functions that its CUDA version lacks only return an error: they may stay. */
    if (symbol->size < SIM_PATCH_BYTES) return;
    void *replacement = replacement_of(symbol->name);
    if (!replacement) replacement = refusal_of(symbol->name);
    if (replacement && sim_patch_jump(symbol->address, replacement) == 0)
        patching->replaced++;
    else
        snprintf(patching->failed, sizeof patching->failed, "%s", symbol->name);
}

int sim_attach(void *libnccl, const char **problem) {
    static char text[160];
    *problem = text;
    int (*get_version)(int *) = (int (*)(int *))(uintptr_t)dlsym(libnccl, "ncclGetVersion");
    int version = 0;
    if (!get_version || get_version(&version)) {
        snprintf(text, sizeof text, "the library has no ncclGetVersion: is it libnccl.so.2?");
        return -1;
    }
    sim_layout = sim_layout_find(version);
    if (!sim_layout) {
        snprintf(text, sizeof text, "the layout of kernel arguments of NCCL release %d is not known", version);
        return -1;
    }
    struct patching patching = {0};
    if (sim_symbols_visit(libnccl, patch_symbol, &patching) < 0) {
        snprintf(text, sizeof text, "the library's symbol table cannot be read");
        return -1;
    }
    if (patching.failed[0] || !patching.replaced) {
        snprintf(text, sizeof text, "%s of the CUDA runtime cannot be replaced",
                 patching.failed[0] ? patching.failed : "nothing");
        return -1;
    }
    if (sim_layout->work_format != SIM_WORK_GRID && !sim_function_ids) {
        snprintf(text, sizeof text, "the library has no ncclDevFuncRowToId");
        return -1;
    }
    return 0;
}
