import SwiftUI

/// Runs the measurement that the launch arguments ask for, prints its line, and ends.
@main
struct PhipackRunnerApp: App {
    var body: some Scene {
        WindowGroup {
            RunView()
        }
    }
}

struct RunView: View {
    @State private var line = "Measuring. Keep the phone unlocked and this app in front."

    var body: some View {
        Text(line)
            .padding()
            .task {
                UIApplication.shared.isIdleTimerDisabled = true
                let run = await Task.detached(priority: .userInitiated) {
                    await Runner.run(arguments: Array(CommandLine.arguments.dropFirst()))
                }.value
                line = run.line
                print(run.line)
                fflush(stdout)
                exit(run.error == nil ? 0 : 1)
            }
    }
}
