/* The formats of quantised weights: what the shapes of a module's parameters say of the weight. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "view/quant_module.h"

typedef unsigned long long ull;

#define MIN_INT4_GROUP 16u

__attribute__((format(printf, 2, 3))) static bool refuse(tpv_module_t *module, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(module->reason, sizeof module->reason, format, arguments);
    va_end(arguments);
    return false;
}

static bool misfit(tpv_module_t *module, const tpv_parameter_t *parameter) {
    return refuse(module, "the shape of %s fits neither rows, columns nor groups of %s", parameter->tensor->name,
                  module->weight_name);
}

static uint64_t parts_of(uint64_t extent, uint64_t part) {
    return extent / part + (extent % part != 0);
}

/* Rows and columns of the weight as axes. */
static uint64_t rows_of(const tpv_module_t *module) {
    return module->weight.shape[tpv_module_rows(module)];
}

static uint64_t columns_of(const tpv_module_t *module) {
    return module->weight.shape[tpv_module_columns(module)];
}

static void lie(tpv_parameter_t *parameter, int axis_of_weight, int axis, uint64_t weights, uint64_t steps) {
    parameter->along[axis_of_weight] = (tpv_along_t){.axis = axis, .weights = weights, .steps = steps};
}

/* The axes before the last two (experts) are those of the weight. */
static bool lie_experts(const tpv_module_t *module, tpv_parameter_t *parameter) {
    int experts = (int)module->weight.dims - 2;
    if ((int)parameter->tensor->dims < experts) return false;
    for (int i = 0; i < experts; i++) {
        if (parameter->tensor->shape[i] != module->weight.shape[i]) return false;
        lie(parameter, i, i, 1, 1);
    }
    return true;
}

static bool has_one_element(const tpv_tensor_t *tensor) {
    for (uint32_t i = 0; i < tensor->dims; i++)
        if (tensor->shape[i] != 1) return false;
    return true;
}

/* ---- groups and blocks ------------------------------------------------------------------------------------------- */

/* How long a part is when `extent` has `count`; 0: one part has all of it. False when that is not sure: the length is
 * taken to be a power of two, which with two parts or more leaves no choice. */
static bool derive(uint64_t extent, uint64_t count, uint64_t *part) {
    *part = count == extent ? 1 : count == 1 ? 0 : count > 0 && extent % count == 0 ? extent / count : UINT64_MAX;
    return (*part & (*part - 1)) == 0 || *part == 0;
}

/* The block of a scale for each [rows / r, columns / c] among those that config.json tells: the largest that fits. */
static bool find_told_block(const tpv_quant_config_t *quant, const tpv_module_t *module, uint64_t down, uint64_t across,
                            uint64_t block[2]) {
    uint64_t rows = rows_of(module), columns = columns_of(module);
    block[0] = block[1] = 0;
    for (uint32_t i = 0; i < quant->block_count; i++) {
        const uint64_t *told = quant->block[i];
        if (parts_of(rows, told[0]) != down || parts_of(columns, told[1]) != across) continue;
        if (told[0] < block[0] || told[1] < block[1]) continue;
        memcpy(block, told, sizeof quant->block[i]);
    }
    return block[0] > 0;
}

static bool find_block(const tpv_quant_config_t *quant, const tpv_module_t *module, uint64_t down, uint64_t across,
                       uint64_t block[2]) {
    if (find_told_block(quant, module, down, across, block)) return true;
    return derive(rows_of(module), down, &block[0]) && derive(columns_of(module), across, &block[1]);
}

/* Scales or zero points: of the whole weight, of channels, or [out, groups] with the weight's axes at `out` and `in` of
 * the parameter. `weights` rows are in `steps` of its steps. */
static bool lie_grid_at(const tpv_quant_config_t *quant, tpv_module_t *module, tpv_parameter_t *parameter, int out,
                        int in, uint64_t weights, uint64_t steps) {
    const uint64_t *shape = parameter->tensor->shape;
    int rows = tpv_module_rows(module), columns = tpv_module_columns(module);
    uint64_t block[2], down = shape[out];
    parameter->packed = weights > 1;
    if (weights > 1) {
        if (parts_of(rows_of(module), weights) * steps != down) return misfit(module, parameter);
        down = rows_of(module);
    }
    if (module->reordered) {
        if (down != rows_of(module)) return misfit(module, parameter);
        lie(parameter, rows, out, weights, steps);
        return true;
    }
    if (!find_block(quant, module, down, shape[in], block)) return misfit(module, parameter);
    if (block[0] > 0) lie(parameter, rows, out, weights > 1 ? weights : block[0], steps);
    if (block[1] > 0) lie(parameter, columns, in, block[1], 1);
    return true;
}

static bool lie_grid(const tpv_quant_config_t *quant, tpv_module_t *module, tpv_parameter_t *parameter, uint64_t pack) {
    const tpv_tensor_t *tensor = parameter->tensor;
    uint32_t dims = module->weight.dims;
    int rows = tpv_module_rows(module), last = (int)tensor->dims - 1;
    if (has_one_element(tensor)) return true;
    if (dims < 2) {
        if (tensor->dims != 1 || tensor->shape[0] != rows_of(module)) return misfit(module, parameter);
        lie(parameter, 0, 0, 1, 1);
        return true;
    }
    if (!lie_experts(module, parameter)) return misfit(module, parameter);
    if (tensor->dims + 2 == dims) return true;
    if (tensor->dims + 1 == dims) {
        if (tensor->shape[last] != rows_of(module) && tensor->shape[last] != 1) return misfit(module, parameter);
        if (tensor->shape[last] != 1) lie(parameter, rows, last, 1, 1);
        return true;
    }
    if (tensor->dims != dims) return misfit(module, parameter);
    /* Zero points may be packed along the rows: pack_to_int32(zero_point, num_bits, packed_dim=0) in the
     * compressed-tensors library (compressors/pack_quantized, 0.17). */
    bool packed = pack > 1 && tensor->dtype == TPV_DTYPE_I32 && tensor->shape[last - 1] != rows_of(module);
    return lie_grid_at(quant, module, parameter, last - 1, last, packed ? pack : 1, 1);
}

/* ---- parameters that are alike in all formats -------------------------------------------------------------------- */

static bool lie_vector(tpv_module_t *module, tpv_parameter_t *parameter, int axis) {
    const tpv_tensor_t *tensor = parameter->tensor;
    int last = (int)tensor->dims - 1;
    if (module->weight.dims < 2 && tensor->dims == 0) return true;
    bool fits = module->weight.dims < 2 || lie_experts(module, parameter);
    if (!fits || tensor->dims + (module->weight.dims < 2 ? 0 : 1) != module->weight.dims ||
        tensor->shape[last] != module->weight.shape[axis])
        return misfit(module, parameter);
    lie(parameter, axis, last, 1, 1);
    return true;
}

/* One number, or one for each head: [heads] or [heads, 1, 1]. */
static bool lie_heads(tpv_module_t *module, tpv_parameter_t *parameter) {
    const tpv_tensor_t *tensor = parameter->tensor;
    if (has_one_element(tensor)) return true;
    bool fits = module->weight.dims == 2 && tensor->dims > 0 && tensor->shape[0] > 0;
    for (uint32_t i = 1; fits && i < tensor->dims; i++)
        fits = tensor->shape[i] == 1;
    if (!fits || rows_of(module) % tensor->shape[0] != 0) return misfit(module, parameter);
    lie(parameter, tpv_module_rows(module), 0, rows_of(module) / tensor->shape[0], 1);
    return true;
}

/* One number, or one for each expert. */
static bool lie_one(tpv_module_t *module, tpv_parameter_t *parameter) {
    if (has_one_element(parameter->tensor)) return true;
    if (!lie_experts(module, parameter)) return misfit(module, parameter);
    for (uint32_t i = module->weight.dims - 2; i < parameter->tensor->dims; i++)
        if (parameter->tensor->shape[i] != 1) return misfit(module, parameter);
    return true;
}

/* Groups that are not those of neighbours need all scales. Where they are in order, the first numbers of g_idx are
 * those of any slice, as it counts its own groups; that they are is what desc_act says. */
static bool lie_order(const tpv_quant_config_t *quant, tpv_module_t *module, tpv_parameter_t *parameter) {
    int columns = tpv_module_columns(module);
    if (!lie_vector(module, parameter, columns)) return false;
    if (module->reordered || quant->desc_act == TPV_TOLD_FALSE) return true;
    parameter->along[columns].weights = 0;
    module->opaque = "config.json does not tell for all modules whether its groups are in order (desc_act)";
    return true;
}

/* Everything but the codes, and zero points that a format packs in its own way. */
static bool lie_rest(const tpv_quant_config_t *quant, tpv_module_t *module, uint64_t pack) {
    for (uint32_t i = 0; i < module->count; i++) {
        tpv_parameter_t *parameter = &module->parameter[i];
        bool good = true;
        switch (parameter->kind) {
        case TPV_PARAMETER_CODES:
            break;
        case TPV_PARAMETER_GRID:
            good = parameter->along[tpv_module_rows(module)].axis >= 0 || lie_grid(quant, module, parameter, pack);
            break;
        case TPV_PARAMETER_ROWS:
            good = lie_vector(module, parameter, tpv_module_rows(module));
            break;
        case TPV_PARAMETER_COLUMNS:
            good = has_one_element(parameter->tensor) || lie_vector(module, parameter, tpv_module_columns(module));
            break;
        case TPV_PARAMETER_ORDER:
            good = lie_order(quant, module, parameter);
            break;
        case TPV_PARAMETER_SHAPE:
            good = parameter->tensor->dims == 1 && parameter->tensor->shape[0] == module->weight.dims;
            if (!good) misfit(module, parameter);
            break;
        case TPV_PARAMETER_HEADS:
            good = lie_heads(module, parameter);
            break;
        case TPV_PARAMETER_ONE:
            good = lie_one(module, parameter);
            break;
        case TPV_PARAMETER_OPAQUE:
        case TPV_PARAMETER_OTHER:
            return refuse(module, "what %s says of %s is not known", parameter->tensor->name, module->weight_name);
        }
        if (!good) return false;
    }
    return true;
}

/* The weight has the shape of its codes, of which `steps` along `axis` hold `weights`. */
static void take_codes(tpv_module_t *module, tpv_parameter_t *codes, int axis, uint64_t weights, uint64_t steps) {
    module->weight.dtype = codes->tensor->dtype;
    module->weight.dims = codes->tensor->dims;
    memcpy(module->weight.shape, codes->tensor->shape, sizeof module->weight.shape);
    for (int i = 0; i < (int)codes->tensor->dims; i++)
        lie(codes, i, i, i == axis ? weights : 1, i == axis ? steps : 1);
    if (axis >= 0) module->weight.shape[axis] = codes->tensor->shape[axis] / steps * weights;
}

/* Whole numbers below 2^58 rows or columns, so that no product of what follows overflows. */
static bool check_extents(tpv_module_t *module, const tpv_tensor_t *codes) {
    for (uint32_t i = 0; i < codes->dims; i++)
        if (codes->shape[i] == 0 || codes->shape[i] >> 58)
            return refuse(module, "%s has no elements, or too many", codes->name);
    return true;
}

/* ---- formats ----------------------------------------------------------------------------------------------------- */

/*
 * NAME.weight with scales: FP8, INT8, NVFP4, and ModelOpt's INT4. The codes of NVFP4 are two to a byte along the inputs
 * (ModelOptNvFp4LinearMethod.create_weights in vLLM 0.32: [out, in // 2], weight_scale [out, in // 16]); those of INT4
 * two to a byte along the outputs (pack_int4_in_uint8 in ModelOpt's torch/export/quant_utils.py). Scales of NVFP4 that
 * a kernel wants padded to 128 rows may be twice as many as rows as well, but are of 8 bytes each.
 */
static bool lay_out_weight(const tpv_quant_config_t *quant, tpv_module_t *module, tpv_parameter_t *codes) {
    const tpv_tensor_t *tensor = codes->tensor;
    tpv_parameter_t *scale = tpv_module_part(module, "weight_scale");
    take_codes(module, codes, -1, 1, 1);
    if (tensor->dtype == TPV_DTYPE_U8) {
        int last = (int)tensor->dims - 1;
        if (tensor->dims < 2 || !scale || scale->tensor->dims != tensor->dims)
            return refuse(module, "how the bytes of %s are packed is not known", tensor->name);
        if (tpv_module_part(module, "weight_scale_2") && scale->tensor->shape[last - 1] == tensor->shape[last - 1])
            take_codes(module, codes, last, 2, 1);
        else if (scale->tensor->shape[last - 1] == 2 * tensor->shape[last - 1] &&
                 scale->tensor->shape[last] <= parts_of(tensor->shape[last], MIN_INT4_GROUP))
            take_codes(module, codes, last - 1, 2, 1);
        else
            return refuse(module, "how the bytes of %s are packed is not known", tensor->name);
    } else if (tpv_dtype_bits(tensor->dtype) > 8 && tensor->dtype != TPV_DTYPE_F16 && tensor->dtype != TPV_DTYPE_BF16 &&
               tensor->dtype != TPV_DTYPE_F32) {
        return refuse(module, "how the words of %s are packed is not known", tensor->name);
    }
    return lie_rest(quant, module, 1);
}

/*
 * Which of the told numbers of bits makes groups of `scale` fit words of [.., out, in / pack]; 0: none, or several. In
 * a checkpoint of several numbers of bits almost any group that is a power of two fits each of them, so that groups
 * that are told go before others. A single group for all inputs says nothing of how many these are: it may be a
 * channel's, which config.json does not tell.
 */
static uint64_t find_pack(const tpv_quant_config_t *quant, tpv_module_t *module, tpv_parameter_t *codes,
                          const tpv_tensor_t *scale) {
    uint64_t found = 0, block[2];
    int last = (int)codes->tensor->dims - 1;
    if (scale->dims != codes->tensor->dims) return 0;
    uint64_t down = scale->shape[last - 1], across = scale->shape[last];
    for (int told = across > 1; told >= 0 && !found; told--) {
        for (uint32_t i = 0; i < quant->bits_count; i++) {
            uint64_t pack = 32 / quant->bits[i];
            take_codes(module, codes, last, pack, 1);
            if (!(told ? find_told_block : find_block)(quant, module, down, across, block)) continue;
            if (found && found != pack) return 0;
            found = pack;
        }
    }
    return found;
}

/*
 * NAME.weight_packed of compressed-tensors (0.17): 32-bit words along the inputs with weight_scale [out, groups]
 * (compressors/pack_quantized), or bytes of two FP4 numbers (compressors/nvfp4, with weight_global_scale, and mxfp4).
 * With weight_g_idx, every rank has the scales of all groups, as in vLLM's CompressedTensorsWNA16.create_weights.
 */
static bool lay_out_packed(const tpv_quant_config_t *quant, tpv_module_t *module, tpv_parameter_t *codes) {
    const tpv_tensor_t *tensor = codes->tensor;
    const tpv_parameter_t *scale = tpv_module_part(module, "weight_scale");
    uint64_t pack = 0;
    if (tensor->dims < 2 || !scale)
        return refuse(module, "%s has no weight_scale beside it, or is no matrix", tensor->name);
    module->reordered = tpv_module_part(module, "weight_g_idx") != NULL;
    if (tensor->dtype == TPV_DTYPE_U8) pack = 2;
    if (tensor->dtype == TPV_DTYPE_I32) pack = find_pack(quant, module, codes, scale->tensor);
    if (pack == 0)
        return refuse(module, "config.json tells no num_bits, or not one alone, with which %s and its weight_scale fit",
                      tensor->name);
    take_codes(module, codes, (int)tensor->dims - 1, pack, 1);
    return lie_rest(quant, module, tensor->dtype == TPV_DTYPE_I32 ? pack : 1);
}

/* A number of `bits` in 32-bit words: so many numbers in so many words. Three bits run over from word to word. */
static void words_of(uint64_t bits, uint64_t *weights, uint64_t *steps) {
    *weights = bits == 3 ? 32 : 32 / bits;
    *steps = bits == 3 ? 3 : 1;
}

static bool is_told(const tpv_quant_config_t *quant, uint64_t bits) {
    for (uint32_t i = 0; i < quant->bits_count; i++)
        if (quant->bits[i] == bits) return true;
    return quant->bits_count == 0;
}

/* How many bits a number has, of qzeros [groups, out * bits / 32] and scales [groups, out]; 0: not known. */
static uint64_t bits_of(const tpv_quant_config_t *quant, const tpv_parameter_t *zeros, uint64_t out) {
    static const uint64_t widths[] = {2, 3, 4, 8};
    uint64_t weights, steps, found = 0;
    if (!zeros) return quant->bits_count == 1 ? quant->bits[0] : 0;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        words_of(widths[i], &weights, &steps);
        if (!is_told(quant, widths[i]) || parts_of(out, weights) * steps != zeros->tensor->shape[1]) continue;
        if (found) return 0;
        found = widths[i];
    }
    return found;
}

/*
 * GPTQ: qweight [in * bits / 32, out], qzeros [groups, out * bits / 32], scales [groups, out], g_idx [in]
 * (BaseQuantLinear in GPTQModel's nn_modules/qlinear, GPTQMarlinLinearMethod.create_weights in vLLM 0.32, which with
 * desc_act gives every rank all scales). AWQ: qweight [in, out / 8], qzeros [groups, out / 8], scales [groups, out]
 * (WQLinear_GEMM in AutoAWQ's modules/linear/gemm.py). Which of both it is, the shapes tell.
 */
static bool lay_out_words(const tpv_quant_config_t *quant, tpv_module_t *module, tpv_parameter_t *codes) {
    const tpv_tensor_t *tensor = codes->tensor;
    tpv_parameter_t *scales = tpv_module_part(module, "scales"), *zeros = tpv_module_part(module, "qzeros");
    const tpv_parameter_t *order = tpv_module_part(module, "g_idx");
    if (tensor->dtype != TPV_DTYPE_I32 || tensor->dims != 2 || !scales || scales->tensor->dims != 2 ||
        (zeros && (zeros->tensor->dims != 2 || zeros->tensor->dtype != TPV_DTYPE_I32)))
        return refuse(module, "%s is neither GPTQ's nor AWQ's", tensor->name);
    if (*quant->format && strncmp(quant->format, "gptq", 4) != 0)
        return refuse(module, "config.json tells checkpoint_format %.40s, whose order of words is not known",
                      quant->format);
    if (*quant->version && strcasecmp(quant->version, "gemm") != 0)
        return refuse(module, "config.json tells version %.40s, whose order of words is not known", quant->version);
    uint64_t out = scales->tensor->shape[1], weights, steps, bits = bits_of(quant, zeros, out);
    if (zeros && bits == 0)
        return refuse(module, "%s does not tell its number of bits, or another one than config.json",
                      zeros->tensor->name);
    bool in_rows = tensor->shape[1] == out, awq = !in_rows && bits == 4 && tensor->shape[1] == parts_of(out, 8);
    if (!in_rows && !awq)
        return refuse(module, "%s and %s are neither GPTQ's nor AWQ's", tensor->name, scales->tensor->name);
    if (*quant->method && strcmp(quant->method, awq ? "gptq" : "awq") == 0)
        return refuse(module, "config.json tells quant_method %.40s, but %s is packed as that of %s", quant->method,
                      tensor->name, awq ? "AWQ" : "GPTQ");
    uint64_t in = tensor->shape[0];
    words_of(bits > 0 ? bits : 8, &weights, &steps);
    if (in_rows && bits > 0) {
        if (in % steps != 0) return refuse(module, "%s has no whole number of packs", tensor->name);
        in = in / steps * weights;
    }
    module->weight = (tpv_tensor_t){.name = module->weight_name, .dtype = tensor->dtype, .dims = 2, .shape = {out, in}};
    lie(codes, 0, 1, in_rows ? 1 : 8, 1);
    lie(codes, 1, 0, in_rows ? weights : 1, in_rows ? steps : 1);
    module->reordered = order && quant->desc_act == TPV_TOLD_TRUE;
    if (in_rows && bits == 0) {
        module->opaque = "neither qzeros nor config.json tell its number of bits";
        lie(codes, 1, 0, 0, 1);
        lie(scales, 0, 1, 1, 1);
        lie(scales, 1, 0, 0, 1);
    } else if (!lie_grid_at(quant, module, scales, 1, 0, 1, 1) ||
               (zeros && !lie_grid_at(quant, module, zeros, 1, 0, weights, steps))) {
        return false;
    }
    return lie_rest(quant, module, 1);
}

/* GGUF as vLLM keeps it: qweight [out, bytes of a row], qweight_type (layers/quantization/gguf.py). */
static bool lay_out_gguf(const tpv_quant_config_t *quant, tpv_module_t *module, tpv_parameter_t *codes) {
    if (codes->tensor->dims != 2) return refuse(module, "%s is no matrix", codes->tensor->name);
    take_codes(module, codes, -1, 1, 1);
    module->opaque = "how long its blocks are tells the value of qweight_type, and no value is read for a plan";
    codes->along[1].weights = 0;
    return lie_rest(quant, module, 1);
}

/* MXFP4 of gpt_oss: NAME_blocks [experts, out, in / 32, 16 bytes], NAME_scales [experts, out, in / 32], NAME_bias
 * [experts, out] (integrations/mxfp4.py in transformers 5.24). */
static bool lay_out_blocks(const tpv_quant_config_t *quant, tpv_module_t *module, tpv_parameter_t *codes) {
    const tpv_tensor_t *tensor = codes->tensor;
    uint32_t dims = tensor->dims - 1;
    if (tensor->dims < 3 || tensor->dtype != TPV_DTYPE_U8 || tensor->shape[dims] != 16)
        return refuse(module, "%s has no blocks of 16 bytes", tensor->name);
    module->weight = (tpv_tensor_t){.name = module->weight_name, .dtype = tensor->dtype, .dims = dims};
    memcpy(module->weight.shape, tensor->shape, dims * sizeof *tensor->shape);
    module->weight.shape[dims - 1] *= 32;
    for (int i = 0; i < (int)dims; i++)
        lie(codes, i, i, i == (int)dims - 1 ? 32 : 1, 1);
    return lie_rest(quant, module, 1);
}

bool tpv_module_lay_out(const tpv_quant_config_t *quant, tpv_module_t *module) {
    tpv_parameter_t *words = tpv_module_part(module, "qweight"), *packed = tpv_module_part(module, "weight_packed");
    tpv_parameter_t *blocks = module->stack ? tpv_module_part(module, "blocks") : NULL;
    tpv_parameter_t *weight = tpv_module_part(module, module->stack ? "" : "weight");
    int kinds = (words != NULL) + (packed != NULL) + (blocks != NULL) + (weight != NULL);
    for (uint32_t i = 0; i < module->count; i++)
        if (module->parameter[i].kind == TPV_PARAMETER_OPAQUE)
            return refuse(module,
                          "%s: bitsandbytes and other formats that keep a weight as a row of blocks, or in an "
                          "order that a value tells, cannot be cut",
                          module->parameter[i].tensor->name);
    if (kinds == 0) return refuse(module, "there is no %s that its scales belong to", module->weight_name);
    if (kinds > 1) return refuse(module, "%s has several weights", module->name);
    tpv_parameter_t *codes = words ? words : packed ? packed : blocks ? blocks : weight;
    if (!check_extents(module, codes->tensor)) return false;
    if (blocks) return lay_out_blocks(quant, module, codes);
    if (packed) return lay_out_packed(quant, module, codes);
    if (!words) return lay_out_weight(quant, module, codes);
    return tpv_module_part(module, "qweight_type") ? lay_out_gguf(quant, module, codes)
                                                   : lay_out_words(quant, module, codes);
}
