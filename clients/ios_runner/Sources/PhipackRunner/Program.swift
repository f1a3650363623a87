import CoreML
import Foundation

/// A package that phipack built, loaded. Its interface is in builders/coreml/description.py.
///
/// In fixed shapes it has two functions, `main` for one token and `prompt` for a chunk of them, and runs on the Neural
/// Engine. Otherwise it has one function, whose lengths change from call to call, and runs on the GPU.
struct Program {
    let main: MLModel
    let prompt: MLModel?
    let chunk: Int
    let contextLength: Int
    /// The longest sequence that takes longrope's short factors, where the context is longer.
    let edge: Int?
    let computeUnits: String

    static func open(_ compiled: URL) async throws -> Program {
        let functions = try await MLModelAsset(url: compiled).functionNames
        let isFixed = functions.contains("prompt")
        let main = try load(compiled, isFixed, function: nil)
        let prompt = isFixed ? try load(compiled, isFixed, function: "prompt") : nil
        let facts = main.modelDescription.metadata[.creatorDefinedKey] as? [String: String] ?? [:]
        guard let context = facts["phipack.context_length"].flatMap(Int.init) else {
            throw RunnerError.problem("the package does not say its context length")
        }
        let chunk = facts["phipack.prompt_chunk"].flatMap(Int.init)
        if isFixed && chunk == nil {
            throw RunnerError.problem("the package does not say how many tokens a chunk has")
        }
        return Program(
            main: main, prompt: prompt, chunk: chunk ?? 1, contextLength: context,
            edge: facts["phipack.longrope_edge"].flatMap(Int.init),
            computeUnits: isFixed ? "cpuAndNeuralEngine" : "cpuAndGPU")
    }

    private static func load(_ compiled: URL, _ isFixed: Bool, function: String?) throws -> MLModel {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = isFixed ? .cpuAndNeuralEngine : .cpuAndGPU
        configuration.functionName = function
        return try MLModel(contentsOf: compiled, configuration: configuration)
    }
}
