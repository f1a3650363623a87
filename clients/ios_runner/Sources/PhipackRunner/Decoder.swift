import CoreML

/// One sequence through a package that phipack built. Its interface is in builders/coreml/description.py:
/// `inputIds` int32 [1, q], `causalMask` float16 [1, 1, 1, n] of zeros, states `keyCache` and `valueCache`,
/// `logits` float16 [1, q, vocabulary].
final class Decoder {
    private let model: MLModel
    private let state: MLState
    private var length = 0

    init(model: MLModel) {
        self.model = model
        state = model.makeState()
    }

    /// Take new tokens, and return the most likely next one.
    func next(after tokens: [Int32]) throws -> Int32 {
        length += tokens.count
        let ids = MLShapedArray<Int32>(scalars: tokens, shape: [1, tokens.count])
        let mask = MLShapedArray<Float16>(repeating: 0, shape: [1, 1, 1, length])
        let inputs = try MLDictionaryFeatureProvider(dictionary: [
            "inputIds": MLFeatureValue(shapedArray: ids),
            "causalMask": MLFeatureValue(shapedArray: mask),
        ])
        let outputs = try model.prediction(from: inputs, using: state)
        guard let logits = outputs.featureValue(for: "logits")?.shapedArrayValue(of: Float16.self) else {
            throw RunnerError.problem("the model has no output logits of float16")
        }
        return Decoder.mostLikely(logits[0][tokens.count - 1])
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
