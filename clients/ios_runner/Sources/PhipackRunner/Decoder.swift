import CoreML

/// One sequence through a program. A state belongs to both of its functions.
final class Decoder {
    private let program: Program
    private let state: MLState
    private var sequence: [Int32] = []
    private var isLong = false

    init(program: Program) {
        self.program = program
        state = program.main.makeState()
    }

    /// Take new tokens, and return the most likely next one.
    func next(after tokens: [Int32]) throws -> Int32 {
        let length = sequence.count + tokens.count
        guard !tokens.isEmpty && length <= program.contextLength else {
            throw RunnerError.problem("\(length) tokens do not fit the context of \(program.contextLength)")
        }
        var new = tokens
        if let edge = program.edge, length > edge, !isLong {  // what is cached belongs to the short factors
            isLong = true
            new = sequence + tokens
            sequence = []
        }
        if let prompt = program.prompt {
            return try nextInChunks(new, prompt)
        }
        sequence += new
        return try predict(program.main, ["inputIds": ids(new), "causalMask": mask()], last: new.count - 1)
    }

    /// Read in chunks; the last one is filled up. Where no chunk is needed or has room, read one token at a time.
    private func nextInChunks(_ tokens: [Int32], _ prompt: MLModel) throws -> Int32 {
        var found: Int32 = 0
        var rest = tokens[...]
        while !rest.isEmpty {
            let isChunk = rest.count > 1 && sequence.count + program.chunk <= program.contextLength
            let new = Array(rest.prefix(isChunk ? program.chunk : 1))
            let filled = new + Array(repeating: 0, count: (isChunk ? program.chunk : 1) - new.count)
            var inputs = ["inputIds": ids(filled), "position": number(Int32(sequence.count))]
            if program.edge != nil {
                inputs["longFactors"] = number(isLong ? 1 : 0)
            }
            found = try predict(isChunk ? prompt : program.main, inputs, last: new.count - 1)
            sequence += new
            rest = rest.dropFirst(new.count)
        }
        return found
    }

    private func predict(_ model: MLModel, _ inputs: [String: MLFeatureValue], last: Int) throws -> Int32 {
        let outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: inputs), using: state)
        guard let logits = outputs.featureValue(for: "logits")?.shapedArrayValue(of: Float16.self) else {
            throw RunnerError.problem("the model has no output logits of float16")
        }
        return Decoder.mostLikely(logits[0][last])
    }

    private func ids(_ tokens: [Int32]) -> MLFeatureValue {
        MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: tokens, shape: [1, tokens.count]))
    }

    private func number(_ value: Int32) -> MLFeatureValue {
        MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: [value], shape: [1]))
    }

    private func mask() -> MLFeatureValue {
        MLFeatureValue(shapedArray: MLShapedArray<Float16>(repeating: 0, shape: [1, 1, 1, sequence.count]))
    }

    private static func mostLikely(_ scores: MLShapedArraySlice<Float16>) -> Int32 {
        scores.withUnsafeShapedBufferPointer { buffer, _, _ in
            var best = 0
            for place in buffer.indices where buffer[place] > buffer[best] {
                best = place
            }
            return Int32(best)
        }
    }
}
