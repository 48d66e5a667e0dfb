#include "channel/registration.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

#define MAX_NAME 254 /* as in NCCL */

/* What a plugin last warned of on this thread: its own words for the error code that it returns next. */
static _Thread_local char last_warning[512];

/* A warning becomes part of our error message (tpv_net_check), so it is no line of its own unless asked for. */
static void plugin_log(ncclDebugLogLevel level, unsigned long flags, const char *file, int line, const char *format,
                       ...) {
    (void)flags;
    tpv_log_level_t ours = level == NCCL_LOG_TRACE ? TPV_LOG_TRACE : TPV_LOG_INFO;
    if (level != NCCL_LOG_WARN && !tpv_log_enabled(ours)) return;
    char text[sizeof last_warning];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (level == NCCL_LOG_WARN) memcpy(last_warning, text, sizeof last_warning);
    if (!tpv_log_enabled(ours)) return;
    tpv_log_write(ours, "[%s:%d] %s", file ? file : "", line, text);
}

static const char *result_name(ncclResult_t result) {
    switch (result) {
    case ncclSuccess:
        return "ncclSuccess";
    case ncclUnhandledCudaError:
        return "ncclUnhandledCudaError";
    case ncclSystemError:
        return "ncclSystemError";
    case ncclInternalError:
        return "ncclInternalError";
    case ncclInvalidArgument:
        return "ncclInvalidArgument";
    case ncclInvalidUsage:
        return "ncclInvalidUsage";
    case ncclRemoteError:
        return "ncclRemoteError";
    }
    return "an unknown result code";
}

tpv_status_t tpv_net_check(const tpv_net_t *net, ncclResult_t result, const char *what) {
    if (result == ncclSuccess) return TPV_OK;
    tpv_status_t status = tpv_error_set(result == ncclRemoteError ? TPV_ERR_PEER : TPV_ERR_NET,
                                        "net plugin %s: %s: %s%s%s%s", net->abi.name, what, result_name(result),
                                        *last_warning ? " (" : "", last_warning, *last_warning ? ")" : "");
    *last_warning = '\0';
    return status;
}

static void *open_beside(const char *base, const char *file, const char *relative) {
    char path[PATH_MAX];
    const char *slash = strrchr(base, '/');
    if (!slash) return NULL;
    int length = snprintf(path, sizeof path, "%.*s/%s%s", (int)(slash - base), base, relative, file);
    if (length < 0 || (size_t)length >= sizeof path) return NULL;
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static void *open_library(const char *name) {
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library || strchr(name, '/')) return library;
    char file[MAX_NAME + 32];
    snprintf(file, sizeof file, "libnccl-net-%s.so", name);
    library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library) return library;

    Dl_info info;
    if (dladdr(tpv_net_versions, &info) && info.dli_fname) library = open_beside(info.dli_fname, file, "");
    if (library) return library;
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) return NULL;
    program[length] = '\0';
    return open_beside(program, file, "../lib/");
}

static tpv_status_t bind_newest(tpv_net_t *net, const char *name) {
    const tpv_net_version_t *version = tpv_net_versions;
    for (; version->symbol; version++) {
        const void *vtable = dlsym(net->library, version->symbol);
        if (!vtable) continue;
        version->bind(vtable, &net->abi);
        return TPV_OK;
    }
    return tpv_error_set(TPV_ERR_UNSUPPORTED, "net plugin \"%s\" has no symbol %s to %s", name, version[-1].symbol,
                         tpv_net_versions[0].symbol);
}

static tpv_status_t start(tpv_net_t *net) {
    net->registry = tpv_net_registry_open();
    if (!net->registry) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a net");
    TPV_TRY(tpv_net_check(net, net->abi.init(&net->abi, &net->ctx, plugin_log), "init"));
    tpv_status_t status = tpv_net_check(net, net->abi.devices(&net->devices), "devices");
    if (status == TPV_OK && net->devices <= 0)
        status = tpv_error_set(TPV_ERR_NET, "net plugin %s: no network device", net->abi.name);
    if (status == TPV_OK)
        status = tpv_net_check(net, net->abi.properties(&net->abi, net->device, &net->properties), "getProperties");
    if (status != TPV_OK) net->abi.finalize(&net->abi, net->ctx);
    return status;
}

static tpv_status_t open_one(const char *name, tpv_net_t **net) {
    if (!*name || strlen(name) > MAX_NAME)
        return tpv_error_set(TPV_ERR_ARGUMENT, "the name of a net plugin has %zu bytes: expected 1 to %d", strlen(name),
                             MAX_NAME);
    if (strcasecmp(name, "none") == 0)
        return tpv_error_set(TPV_ERR_NOT_FOUND, "net plugin \"none\": a transfer needs one, such as tpview");
    tpv_net_t *n = calloc(1, sizeof *n);
    if (!n) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for net plugin \"%s\"", name);
    tpv_status_t status;
    n->library = open_library(name);
    if (!n->library) {
        const char *reason = dlerror();
        status = tpv_error_set(TPV_ERR_NOT_FOUND,
                               "net plugin \"%s\" cannot be loaded: %s (expected tpview, the NAME of a "
                               "libnccl-net-NAME.so or the path of a file)",
                               name, reason ? reason : "");
        goto fail;
    }
    status = bind_newest(n, name);
    if (status == TPV_OK) status = start(n);
    if (status != TPV_OK) goto fail_close;
    TPV_INFO("net plugin %s (v%d), device %s", n->abi.name, n->abi.version, n->properties.name);
    *net = n;
    return TPV_OK;

fail_close:
    dlclose(n->library);
fail:
    tpv_net_registry_close(n->registry);
    free(n);
    return status;
}

tpv_status_t tpv_net_open_table(void *library, const void *vtable, int version, tpv_net_t **net) {
    char symbol[32];
    snprintf(symbol, sizeof symbol, "ncclNetPlugin_v%d", version);
    const tpv_net_version_t *known = tpv_net_versions;
    while (known->symbol && strcmp(known->symbol, symbol) != 0)
        known++;
    if (!known->symbol) return tpv_error_set(TPV_ERR_UNSUPPORTED, "its ncclNet ABI (v%d) is not known here", version);
    tpv_net_t *n = calloc(1, sizeof *n);
    if (!n) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a net");
    n->library = library;
    known->bind(vtable, &n->abi);
    tpv_status_t status = start(n);
    if (status != TPV_OK) {
        tpv_net_registry_close(n->registry);
        free(n);
        return status;
    }
    *net = n;
    return TPV_OK;
}

tpv_status_t tpv_net_open(const char *name, tpv_net_t **net) {
    if (name) return open_one(name, net);
    const char *list = getenv("NCCL_NET_PLUGIN");
    if (!list || !*list) return open_one("tpview", net);
    char *copy = strdup(list), *rest = copy, *item;
    if (!copy) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for NCCL_NET_PLUGIN");
    tpv_status_t status = tpv_error_set(TPV_ERR_NOT_FOUND, "NCCL_NET_PLUGIN=\"%s\" names no plugin", list);
    while (status != TPV_OK && (item = strsep(&rest, ",")))
        if (*item) status = open_one(item, net);
    free(copy);
    return status;
}

void tpv_net_close(tpv_net_t *net) {
    if (!net) return;
    net->abi.finalize(&net->abi, net->ctx);
    dlclose(net->library);
    tpv_net_registry_close(net->registry);
    free(net);
}
