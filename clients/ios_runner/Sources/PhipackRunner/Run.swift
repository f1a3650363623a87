import Foundation

/// What the runner reports: `phipack.ios-run/1`, read by builders/devices/devicectl.py.
struct Run: Encodable, Sendable {
    var error: String?
    var model = ""
    var os = ""
    var osVersion = ""
    var computeUnits = ""
    var promptTokens = 0
    var decodeTokens = 0
    var prefillSeconds: [Double] = []
    var decodeSeconds: [Double] = []
    var peakMemoryBytes: UInt64 = 0
    var thermalBefore = "nominal"
    var thermalAfter = "nominal"
    var files: [String: String] = [:]
    private let schema = "phipack.ios-run/1"

    enum CodingKeys: String, CodingKey {
        case schema = "schema"
        case error = "error"
        case model = "model"
        case os = "os"
        case osVersion = "os_version"
        case computeUnits = "compute_units"
        case promptTokens = "prompt_tokens"
        case decodeTokens = "decode_tokens"
        case prefillSeconds = "prefill_seconds"
        case decodeSeconds = "decode_seconds"
        case peakMemoryBytes = "peak_memory_bytes"
        case thermalBefore = "thermal_before"
        case thermalAfter = "thermal_after"
        case files = "files"
    }

    /// The line that the Mac looks for.
    var line: String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(self), let text = String(data: data, encoding: .utf8) else {
            return "PHIPACK_RUN {\"schema\": \"phipack.ios-run/1\", \"error\": \"the run can't be written as JSON\"}"
        }
        return "PHIPACK_RUN \(text)"
    }
}
