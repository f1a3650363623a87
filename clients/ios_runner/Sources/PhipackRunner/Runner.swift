import CoreML
import CryptoKit
import Foundation

enum RunnerError: Error {
    case problem(String)
}

/// Times a package in the app's container, as the launch arguments say:
/// `--package=Documents/…/model.mlpackage --prompt-tokens=512 --decode-tokens=128 --repeats=5 [--keep]`.
enum Runner {
    static func run(arguments: [String]) async -> Run {
        var run = Run()
        do {
            try await measure(options(arguments), into: &run)
        } catch RunnerError.problem(let problem) {
            run.error = problem
        } catch {
            run.error = String(describing: error)
        }
        return run
    }

    private static func measure(_ options: [String: String], into run: inout Run) async throws {
        guard let path = options["package"] else {
            throw RunnerError.problem("no --package was given")
        }
        run.promptTokens = try count(options, "prompt-tokens")
        run.decodeTokens = try count(options, "decode-tokens")
        let repeats = try count(options, "repeats")
        run.model = machine()
        run.os = "iOS"
        let version = ProcessInfo.processInfo.operatingSystemVersion
        run.osVersion = "\(version.majorVersion).\(version.minorVersion)"
        let package = URL(fileURLWithPath: NSHomeDirectory()).appendingPathComponent(path)
        defer {
            if options["keep"] == nil {
                try? FileManager.default.removeItem(at: package.deletingLastPathComponent())
            }
        }
        run.files = try digests(of: package)
        let compiled = try MLModel.compileModel(at: package)
        defer { try? FileManager.default.removeItem(at: compiled) }
        let program = try await Program.open(compiled)
        run.computeUnits = program.computeUnits
        try repeated(program, repeats, into: &run)
    }

    private static func repeated(_ program: Program, _ repeats: Int, into run: inout Run) throws {
        run.thermalBefore = thermalState()
        for number in 0...repeats {  // the first one warms up, and does not count
            let (prefill, decode) = try autoreleasepool { try timed(program, run.promptTokens, run.decodeTokens) }
            if number > 0 {
                run.prefillSeconds.append(prefill)
                run.decodeSeconds.append(decode)
            }
        }
        run.thermalAfter = thermalState()
        run.peakMemoryBytes = peakFootprint()
    }

    /// Return the seconds of a prompt, and of the tokens after it.
    private static func timed(_ program: Program, _ prompt: Int, _ tokens: Int) throws -> (Double, Double) {
        let decoder = Decoder(program: program)
        let clock = ContinuousClock()
        let started = clock.now
        var token = try decoder.next(after: (0..<prompt).map { Int32(100 + $0 % 1000) })
        let answered = clock.now
        for _ in 0..<tokens {
            token = try decoder.next(after: [token])
        }
        return (seconds(answered - started), seconds(clock.now - answered))
    }

    private static func seconds(_ duration: Duration) -> Double {
        Double(duration.components.seconds) + Double(duration.components.attoseconds) * 1e-18
    }

    private static func options(_ arguments: [String]) -> [String: String] {
        var found: [String: String] = [:]
        for argument in arguments where argument.hasPrefix("--") {
            let parts = argument.dropFirst(2).split(separator: "=", maxSplits: 1)
            if let name = parts.first {
                found[String(name)] = parts.count > 1 ? String(parts[1]) : ""
            }
        }
        return found
    }

    private static func count(_ options: [String: String], _ name: String) throws -> Int {
        guard let text = options[name], let value = Int(text), value > 0 else {
            throw RunnerError.problem("--\(name) must be a whole number of at least 1")
        }
        return value
    }

    /// Return the SHA-256 of every file of the package, in hex, by its path in it.
    private static func digests(of package: URL) throws -> [String: String] {
        let keys: [URLResourceKey] = [.isRegularFileKey]
        guard let files = FileManager.default.enumerator(at: package, includingPropertiesForKeys: keys) else {
            throw RunnerError.problem("the package is not in the app's container")
        }
        var found: [String: String] = [:]
        let prefix = package.resolvingSymlinksInPath().path + "/"
        for case let file as URL in files {
            guard try file.resourceValues(forKeys: Set(keys)).isRegularFile == true else { continue }
            let name = String(file.resolvingSymlinksInPath().path.dropFirst(prefix.count))
            found[name] = try digest(of: file)
        }
        if found.isEmpty {
            throw RunnerError.problem("the package is empty")
        }
        return found
    }

    private static func digest(of file: URL) throws -> String {
        let handle = try FileHandle(forReadingFrom: file)
        defer { try? handle.close() }
        var hash = SHA256()
        while let piece = try handle.read(upToCount: 1 << 20), !piece.isEmpty {
            hash.update(data: piece)
        }
        return hash.finalize().map { String(format: "%02x", $0) }.joined()
    }

    /// Return what the device calls itself: `iPhone15,4`.
    private static func machine() -> String {
        var system = utsname()
        uname(&system)
        return withUnsafeBytes(of: &system.machine) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    }

    private static func thermalState() -> String {
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: return "nominal"
        case .fair: return "fair"
        case .serious: return "serious"
        case .critical: return "critical"
        @unknown default: return "critical"
        }
    }

    /// Return the largest memory footprint of this process so far, what iOS ends an app by. 0 where it is not known.
    private static func peakFootprint() -> UInt64 {
        var info = task_vm_info_data_t()
        var size = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
        let result = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: Int(size)) {
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &size)
            }
        }
        return result == KERN_SUCCESS ? UInt64(info.ledger_phys_footprint_peak) : 0
    }
}
